"""Files of repositories on the hub: listed, downloaded by huggingface_hub into its own cache, and then verified."""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llcuda.errors import ChecksumMismatchError, DownloadError, ModelNotFoundError
from llcuda.models import hub_cache
from llcuda.store import verify_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llcuda.models.names import HubName

__all__ = ["HubFile", "fetch_file", "list_files"]

_TIMEOUT = 10.0
_ATTEMPTS = 3
_LOGIN_STATUSES = frozenset({401, 403})

_log = logging.getLogger("llcuda")


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file as the hub states it; ``digest`` is None for the rare one that is not in large-file storage."""

    path: str
    bytes: int | None
    digest: str | None


def list_files(name: HubName) -> dict[str, HubFile]:
    """Ask the hub which GGUF files the repository has.

    Raises ModelNotFoundError where there is no such repository, and DownloadError where the hub cannot be asked.
    """
    from huggingface_hub import HfApi  # noqa: PLC0415 - loaded only when needed

    with _hub_errors(name):
        api = HfApi(endpoint=_endpoint())
        info = api.model_info(name.repository, revision=name.revision, files_metadata=True, timeout=_TIMEOUT)
    siblings = [file for file in info.siblings or [] if file.rfilename.lower().endswith(".gguf")]
    return {
        file.rfilename: HubFile(file.rfilename, file.size, f"sha256:{file.lfs.sha256}" if file.lfs else None)
        for file in siblings
    }


def fetch_file(name: HubName, file: HubFile, *, progress: bool = True) -> Path:
    """Download the file into the hub's cache, compare it with the digest that the hub states, and return its path.

    huggingface_hub resumes a connection that breaks. A file that is not the one stated is removed from the cache.
    Raises DownloadError, and ChecksumMismatchError.
    """
    with _hub_errors(name, file.path), _progress(shown=progress):
        path = _download(name, file)
    _verify(name, file, Path(path))
    return Path(path)


def _download(name: HubName, file: HubFile, *, attempts: int = _ATTEMPTS) -> str:
    from huggingface_hub import errors, hf_hub_download  # noqa: PLC0415 - loaded only when needed

    try:
        return hf_hub_download(
            name.repository,
            file.path,
            revision=name.revision,
            cache_dir=hub_cache.cache_dir(),
            endpoint=_endpoint(),
        )
    except _network_error() as error:
        # Before 1.0, huggingface_hub gave up at the first broken connection, and went on there when called again.
        if isinstance(error, errors.HfHubHTTPError) or attempts == 1:
            raise
        _log.warning("%s: %s; trying again", _label(name, file.path), _first_line(error))
    return _download(name, file, attempts=attempts - 1)


def _network_error() -> type[Exception]:
    """Return the base of all errors of the HTTP library that this version of huggingface_hub uses."""
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415 - loaded only when needed

    ours = [base for base in HfHubHTTPError.__mro__ if base not in {OSError, Exception, BaseException, object}]
    return ours[-1]


def _verify(name: HubName, file: HubFile, path: Path) -> None:
    stated = file.digest or hub_cache.cached_digest(path)
    try:
        if stated:
            verify_file(path, stated)
        else:
            _compare_size(name, file, path)
    except (ChecksumMismatchError, DownloadError):
        hub_cache.remove_cached(name.repository, file.path)
        raise


def _compare_size(name: HubName, file: HubFile, path: Path) -> None:
    size = path.stat().st_size
    if file.bytes not in {None, size}:
        raise DownloadError(_label(name, file.path), f"it has {size} bytes, not {file.bytes}")


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _label(name: HubName, file: str | None) -> str:
    return f"{name.repository}:{file}" if file else name.label


@contextlib.contextmanager
def _progress(*, shown: bool) -> Iterator[None]:
    """Hide huggingface_hub's progress bars unless they are to be ``shown``."""
    from huggingface_hub.utils.tqdm import (  # noqa: PLC0415 - loaded only when needed
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if shown or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextlib.contextmanager
def _hub_errors(name: HubName, file: str | None = None) -> Iterator[None]:
    """Turn what huggingface_hub raises into our errors."""
    from huggingface_hub import errors  # noqa: PLC0415 - loaded only when needed

    # hf-xet, written in Rust, raises RuntimeError; EntryNotFoundError derives from Exception alone.
    foreseen: tuple[type[Exception], ...] = (
        _network_error(), errors.EntryNotFoundError, OSError, RuntimeError, ValueError,
    )  # fmt: skip
    try:
        yield
    except foreseen as error:
        raise _translate(error, name, file) from error


def _translate(error: Exception, name: HubName, file: str | None) -> ModelNotFoundError | DownloadError:
    from huggingface_hub import errors  # noqa: PLC0415 - loaded only when needed

    label = _label(name, file)
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError) or status in _LOGIN_STATUSES:
        return _describe_login(label, name.repository, status)
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelNotFoundError(label, "the hub has no such repository", hint="Check how its name is written.")
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelNotFoundError(label, f"the repository has no revision {name.revision}")
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return ModelNotFoundError(label, "the repository has no such file")
    cause = error.__cause__ or error
    return DownloadError(label, _first_line(cause), status=status, hint="Check the network and try again.")


def _describe_login(label: str, repository: str, status: int | None) -> DownloadError:
    return DownloadError(
        label,
        "the repository needs a login, or does not exist",
        status=status,
        hint=f"Accept the licence at {_endpoint() or 'https://huggingface.co'}/{repository}, then set HF_TOKEN to an "
        "access token of the same account.",
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
