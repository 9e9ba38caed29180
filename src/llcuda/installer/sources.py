"""Where bundles come from: the hub's dataset, a web server, a folder or a file."""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, ClassVar

from llcuda import settings
from llcuda.errors import ChecksumMismatchError, DownloadError, InstallError, UsageError
from llcuda.installer.bundles import INDEX_NAME, MAX_INDEX_BYTES, describe_bundle, parse_index
from llcuda.installer.unpack import read_bundle_record
from llcuda.models.hub import hub_headers
from llcuda.store import hash_file, parse_digest
from llcuda.store.digests import hash_stream, require_digest
from llcuda.store.download import Download, fetch_small, forget_partial, lock_partial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from llcuda.installer.bundles import Bundle

HUB_SOURCE = "hf://datasets/waqasm86/Local-Llama-Inference"
"""The dataset of released bundles, with one folder for each version."""
_HUB = "hf://datasets/"
_ENDING = ".tar.gz"


def open_source(text: str | None, *, downloads: Path) -> BundleSource:
    """Return the place that ``text`` names: by default the hub's dataset, else an address, a folder or a file.

    A file is a bundle, or the index of its folder. ``downloads`` is where partial downloads are kept. Raises UsageError
    for what is none of these, and if downloads are forbidden (LLCUDA_OFFLINE and the like).
    """
    text = text or HUB_SOURCE
    if "://" not in text:
        return _open_path(Path(text).expanduser())
    _require_online(text)
    if text.startswith(_HUB):
        base, headers = _resolve_hub(text.removeprefix(_HUB).rstrip("/"))
        return WebSource(text, base, downloads, headers=headers)
    if not text.lower().startswith(("https://", "http://")):
        hint = f"Give an https:// address, a folder, a file, or {_HUB}OWNER/NAME."
        raise UsageError(f"{text} is not an address", hint=hint)
    base, only = _split_address(text)
    return WebSource(text, base, downloads, only=only)


def _require_online(text: str) -> None:
    for name in ("LLCUDA_OFFLINE", "HF_HUB_OFFLINE", "LOCAL_LLAMA_INFERENCE_NO_AUTO_INSTALL"):
        if settings.is_set(name):
            raise UsageError(
                f"{text} would be downloaded, which {name} forbids",
                hint=f"Unset {name}, or give a bundle that is on this machine: --from FILE.",
            )


def _open_path(path: Path) -> FolderSource:
    if path.is_dir():
        return FolderSource(path)
    if not path.is_file():
        hint = f"Give a bundle, or the folder that has its {INDEX_NAME}."
        raise UsageError(f"{path}: there is no such file or folder", hint=hint)
    return FolderSource(path.parent, None if path.name == INDEX_NAME else path.name)


def _split_address(url: str) -> tuple[str, str | None]:
    """Return the folder's address, and the bundle's name if the address is one bundle's."""
    base, _, name = url.partition("?")[0].rpartition("/")
    if name.endswith(_ENDING):
        return base, name
    return (base, None) if name == INDEX_NAME else (url.rstrip("/"), None)


def _resolve_hub(repository: str) -> tuple[str, Mapping[str, str]]:
    """Return the address of this version's folder, and the headers that the hub asks for."""
    from huggingface_hub import hf_hub_url  # noqa: PLC0415 - loaded only when needed
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415

    version, endpoint = settings.package_version(), os.environ.get("HF_ENDPOINT") or None
    try:
        url = hf_hub_url(repository, f"v{version}/{INDEX_NAME}", repo_type="dataset", endpoint=endpoint)
    except HFValidationError as error:
        raise UsageError(f"{_HUB}{repository} is not a dataset's name", hint=f"Write {_HUB}OWNER/NAME.") from error
    return url.rpartition("/")[0], hub_headers()


@dataclass(frozen=True)
class FolderSource:
    """A folder on this machine; ``only`` is the one bundle that was named."""

    folder: Path
    only: str | None = None
    is_remote: ClassVar = False

    @property
    def label(self) -> str:
        """What it is called in messages."""
        return str(self.folder / self.only if self.only else self.folder)

    def list_bundles(self) -> tuple[Bundle, ...]:
        """Return what there is. Raises InstallError."""
        listed = self._read_index()
        if self.only is None:
            if listed is None:
                hint = "`python prepare_binaries.py pack` makes one."
                raise InstallError(self.label, f"it has no {INDEX_NAME}", hint=hint)
            return listed
        found = tuple(bundle for bundle in listed or () if bundle.name == self.only)
        return found or (self._describe(self.folder / self.only),)

    def _read_index(self) -> tuple[Bundle, ...] | None:
        path = self.folder / INDEX_NAME
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return parse_index(file.read(MAX_INDEX_BYTES), source=str(path))

    def _describe(self, path: Path) -> Bundle:
        """Describe a bundle that no index lists, from its own record, and its digest from the file beside it."""
        with tempfile.TemporaryDirectory(prefix="llcuda-") as folder, path.open("rb") as file:
            info = read_bundle_record(file, Path(folder), source=str(path))
        return describe_bundle(info, path=path, sha256=_read_digest(path) or hash_file(path))

    @contextlib.contextmanager
    def open_bundle(
        self, bundle: Bundle, *, progress: bool, on_bytes: Callable[[int], object] | None = None
    ) -> Iterator[BinaryIO]:
        """Yield the file; it is compared with its digest first."""
        del progress, on_bytes  # nothing is downloaded
        path = self.folder / bundle.name
        if not path.is_file():
            raise InstallError(str(path), "the index lists it and it is not there")
        with path.open("rb") as file:
            _check(file, bundle, label=str(path))
            yield file


def _read_digest(path: Path) -> str | None:
    """Return the digest in the file that ``pack`` writes beside a bundle, None if there is no such file."""
    beside = path.with_name(path.name + ".sha256")
    if not beside.is_file():
        return None
    with beside.open(encoding="ascii", errors="replace") as file:
        return parse_digest(f"sha256:{file.read(64)}")


@dataclass(frozen=True)
class WebSource:
    """A folder on a web server: the hub's dataset, or another; ``only`` is the one bundle that was named."""

    label: str
    base: str
    downloads: Path
    """Where partial downloads are kept."""
    only: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    is_remote: ClassVar = True

    def list_bundles(self) -> tuple[Bundle, ...]:
        """Return what there is. Raises InstallError or DownloadError."""
        url = f"{self.base}/{INDEX_NAME}"
        answer, data = fetch_small(url, headers=self.headers, max_bytes=MAX_INDEX_BYTES)
        if answer.status != 200:  # noqa: PLR2004 - OK
            raise DownloadError(url, f"HTTP {answer.status}", status=answer.status, hint=_explain(answer.status))
        return tuple(one for one in parse_index(data, source=url) if self.only in {None, one.name})

    @contextlib.contextmanager
    def open_bundle(
        self, bundle: Bundle, *, progress: bool, on_bytes: Callable[[int], object] | None = None
    ) -> Iterator[BinaryIO]:
        """Download the bundle, or the rest of it, and yield it, compared with its digest; it is removed after that.

        ``on_bytes`` is told again and again how much was downloaded.
        """
        url = f"{self.base}/{bundle.name}"
        with lock_partial(self.downloads, url) as part:
            size = bundle.bytes
            Download(url, part, headers=self.headers, max_bytes=size, shown=progress, on_bytes=on_bytes).run()
            with part.open("rb") as file:
                try:
                    _check(file, bundle, label=url)
                except ChecksumMismatchError:
                    forget_partial(part)
                    raise
                yield file
            forget_partial(part)


def _explain(status: int) -> str:
    if status in {401, 403}:
        return "It needs a login: set HF_TOKEN to an access token of the hub."
    return f"There are no bundles of llcuda {settings.package_version()} at this address; name another with --from."


def _check(file: BinaryIO, bundle: Bundle, *, label: str) -> None:
    require_digest(hash_stream(file), bundle.sha256, name=label)
    file.seek(0)


BundleSource = FolderSource | WebSource
