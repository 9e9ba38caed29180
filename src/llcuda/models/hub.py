"""Files of repositories on the hub: listed, downloaded into the cache that other programs share, and verified.

Nothing that the hub says becomes part of a path, or a bound, before it was checked. huggingface_hub does not check:
up to 2.4 an ``ETag`` or an ``X-Repo-Commit`` with ``../`` in it makes it write outside its cache, and no answer has a
bound. So it is asked for the user's token alone, and files come by the same way as from any other address.
"""

from __future__ import annotations

import functools
import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from llcuda import settings
from llcuda.errors import ChecksumMismatchError, DownloadError, ModelNotFoundError, StorageError
from llcuda.gguf import require_magic
from llcuda.models import hub_cache
from llcuda.models.names import check_file
from llcuda.store import hash_file, parse_digest, verify_file
from llcuda.store.digests import require_digest
from llcuda.store.download import Download, fetch_small, forget_partial, lock_partial

if TYPE_CHECKING:
    from pathlib import Path

    from llcuda.models.names import HubName
    from llcuda.store.resumption import ServerAnswer

_HUB = "https://huggingface.co"
_MAX_LISTING_BYTES = 32 << 20
"""The largest repositories have some 10,000 files, at 400 bytes each."""
_MAX_FILE_BYTES = 1 << 50
_LARGE_BYTES = 64 << 20
"""From here on a file comes over several connections."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_OK, _NOT_FOUND = 200, 404
_LOGIN_STATUSES = frozenset({401, 403})
_SHOWN = 80
"""Characters of what cannot be used that an error shows."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file as the hub states it; ``digest`` is None for the rare one that is not in large-file storage."""

    path: str
    commit: str
    bytes: int | None
    digest: str | None


def list_files(name: HubName) -> dict[str, HubFile]:
    """Ask the hub which GGUF files the repository has.

    Raises ModelNotFoundError if there is no such repository, and DownloadError if the hub cannot be asked or its
    answer not be used.
    """
    url = f"{_endpoint()}/api/models/{name.repository}/revision/{quote(name.revision, safe='')}?blobs=true"
    answer, body = fetch_small(url, headers=hub_headers(), max_bytes=_MAX_LISTING_BYTES)
    if answer.status != _OK:
        raise _translate(answer, name)
    try:
        listing = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _unusable(name, "it is not JSON, or deeper or longer than any that is meant") from error
    try:
        return _parse_listing(listing)
    except ValueError as error:
        raise _unusable(name, str(error)) from error


def _unusable(name: HubName, reason: str) -> DownloadError:
    hint = "Try again later; if HF_ENDPOINT is set, see that it is the address of a hub."
    return DownloadError(name.label, f"the hub's answer cannot be used: {reason}", hint=hint)


def _parse_listing(listing: object) -> dict[str, HubFile]:
    """Return the GGUF files. Raises ValueError for what cannot be used."""
    commit = _get(listing, "sha", str)
    if not _COMMIT.fullmatch(commit):
        raise ValueError(f"its commit is {commit[:_SHOWN]!r}")
    entries = _get(listing, "siblings", list)
    models = [entry for entry in entries if _get(entry, "rfilename", str).lower().endswith(".gguf")]
    files = [_parse_file(entry, commit) for entry in models]
    return {file.path: file for file in files}


def _parse_file(entry: object, commit: str) -> HubFile:
    path = check_file(_get(entry, "rfilename", str))
    size, large = _get(entry, "size", int, optional=True), _get(entry, "lfs", dict, optional=True)
    if size is not None and not 0 <= size <= _MAX_FILE_BYTES:
        raise ValueError(f"the size of {path} is {size} bytes")
    digest = None if large is None else parse_digest(f"sha256:{_get(large, 'sha256', str)[:_SHOWN]}")
    return HubFile(path, commit, size, digest)


def fetch_file(name: HubName, file: HubFile, *, progress: bool = True) -> Path:
    """Download the file into the hub's cache, compare it with the digest that the hub states, and return its path.

    What was downloaded before, by this process or another, is resumed. Raises DownloadError, ModelNotFoundError,
    ModelFormatError if it is no GGUF file, ChecksumMismatchError, and ModelError on a full disk.
    """
    label = f"{name.repository}:{file.path}"
    url = f"{_endpoint()}/{name.repository}/resolve/{file.commit}/{quote(file.path)}"
    place = functools.partial(hub_cache.place, name.repository, file.path, commit=file.commit, revision=name.revision)
    with lock_partial(hub_cache.downloads_dir(), url) as part:
        if file.digest and _is_cached(name.repository, file.digest):
            return place(digest=file.digest)
        try:
            digest = _download(url, part, file, label=label, progress=progress)
        except DownloadError as error:
            raise _explain(error, name, file.path) from error
        try:
            digest = digest or _verify(part, file, label=label)
            require_digest(digest, file.digest, name=label)
            return place(digest=digest, part=part)
        finally:
            forget_partial(part)


def _download(url: str, part: Path, file: HubFile, *, label: str, progress: bool) -> str | None:
    """Have the file at ``part``, and return its digest if it was computed meanwhile. Raises DownloadError."""
    if file.digest is None or file.bytes is None or file.bytes < _LARGE_BYTES:
        check = functools.partial(require_magic, name=label)
        Download(url, part, headers=hub_headers(), max_bytes=file.bytes, check_start=check, shown=progress).run()
        return None
    from llcuda.storage.transfer import fetch_in_parts  # noqa: PLC0415 - loaded only when needed

    shown = file.path.rpartition("/")[2]
    try:
        return fetch_in_parts(
            url, part, size=file.bytes, expected=file.digest, headers=hub_headers(), label=shown, progress=progress
        )
    except StorageError as error:
        raise DownloadError(label, error.message, status=error.status, hint=error.hint) from error


def _is_cached(repository: str, digest: str) -> bool:
    """Return whether the cache has the file under another name or for another commit; a damaged one is removed."""
    blob = hub_cache.blob_path(repository, digest)
    try:
        verify_file(blob, digest)
    except FileNotFoundError:
        return False
    except ChecksumMismatchError:
        blob.unlink(missing_ok=True)
        return False
    return True


def _verify(part: Path, file: HubFile, *, label: str) -> str:
    size, digest = part.stat().st_size, hash_file(part)
    if file.bytes not in {None, size}:
        raise DownloadError(label, f"it has {size} bytes, not {file.bytes}", hint="Try again later.")
    return digest


def _get(entry: object, key: str, kind: type, *, optional: bool = False) -> Any:
    """Return what the hub says under ``key``. Raises ValueError if it is not of this ``kind``."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if type(value) is not kind and not (optional and value is None):
        raise ValueError(f"it says {str(value)[:_SHOWN]!r} for {key}")
    return value


def hub_headers() -> dict[str, str]:
    """Return the headers that the hub asks for, with the user's token."""
    from huggingface_hub import utils  # noqa: PLC0415 - loaded only when needed

    version = settings.package_version()
    headers: dict[str, str] = utils.build_hf_headers(library_name="llcuda", library_version=version)  # type: ignore[attr-defined]
    return headers


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or _HUB).rstrip("/")


def _translate(answer: ServerAnswer, name: HubName) -> ModelNotFoundError | DownloadError:
    """Return the error that an answer to a question about the repository stands for."""
    status, code, label = answer.status, answer.headers.get("x-error-code"), name.label
    if code == "GatedRepo" or status in _LOGIN_STATUSES:
        return _describe_login(label, name.repository, status)
    if code == "RevisionNotFound":
        return ModelNotFoundError(label, f"the repository has no revision {name.revision}")
    if status == _NOT_FOUND:
        return ModelNotFoundError(label, "the hub has no such repository", hint="Check how its name is written.")
    return DownloadError(label, f"HTTP {status}", status=status, hint="Check the network and try again.")


def _explain(error: DownloadError, name: HubName, file: str) -> ModelNotFoundError | DownloadError:
    """Return the error of a file's download in the words of the hub."""
    label = f"{name.repository}:{file}"
    if error.status in _LOGIN_STATUSES:
        return _describe_login(label, name.repository, error.status)
    if error.status == _NOT_FOUND:
        return ModelNotFoundError(label, "the repository has no such file")
    return DownloadError(label, error.reason, status=error.status, hint=error.hint)


def _describe_login(label: str, repository: str, status: int | None) -> DownloadError:
    licence = f"{_endpoint()}/{repository}"
    hint = f"Accept the licence at {licence}, then set HF_TOKEN to an access token of the same account."
    return DownloadError(label, "the repository needs a login, or does not exist", status=status, hint=hint)
