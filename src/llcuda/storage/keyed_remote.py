"""A remote of plain files, of which the name of each says what must be in it.

::

    blobs/sha256/<64 hex>       files, configs and manifests, as in the store on this disk
    names/<name>                the manifest of the model with this name, which is percent-encoded
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote, unquote

from llcuda.errors import ModelError, StorageError
from llcuda.storage.remote import InterruptedTransferError
from llcuda.store.layout import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from llcuda.storage.pieces import Upload

__all__ = ["Files", "KeyedRemote"]

_NAMES = "names"
_ATTEMPTS = 5
_FIRST_PAUSE = 0.5


class Files(Protocol):
    """A place that keeps files by their keys. Its methods do what those of a remote of the same name do."""

    url: str

    def find_bytes(self, key: str) -> int | None:
        """Return how many bytes a file has, or None if there is none."""
        ...

    def read_range(self, key: str, start: int, end: int) -> Iterator[bytes]:
        """Yield a part of a file."""
        ...

    def put(self, key: str, upload: Upload) -> None:
        """Keep a file under a key; it is there as a whole, or not at all."""
        ...

    def write(self, key: str, data: bytes) -> None:
        """Keep a small file under a key, in place of what was there."""
        ...

    def list_names(self, folder: str) -> list[str]:
        """Return what is in a folder, without the folder's own name."""
        ...


class KeyedRemote:
    """The models among the files of a place."""

    def __init__(self, files: Files) -> None:
        """Use a place."""
        self._files = files
        self.url = files.url

    def find_bytes(self, digest: str) -> int | None:
        """Return how many bytes the file with this digest has, or None if there is none."""
        return self._files.find_bytes(_blob(digest))

    def read_range(self, digest: str, start: int, end: int) -> Iterator[bytes]:
        """Yield a part of a file."""
        return self._files.read_range(_blob(digest), start, end)

    def put(self, digest: str, upload: Upload) -> None:
        """Keep a file under its digest."""
        self._files.put(_blob(digest), upload)

    def require_name(self, name: str) -> None:
        """Take any name."""

    def read_manifest(self, name: str, *, max_bytes: int) -> bytes | None:
        """Return the manifest of the model with this name, or None if there is none."""
        key = _name(name)
        size = self._files.find_bytes(key)
        if size is None:
            return None
        if size > max_bytes:
            raise ModelError(f"{self.url}/{key} has {size} bytes, and may have {max_bytes}")
        return _read_whole(partial(self._files.read_range, key), size)

    def write_manifest(self, name: str, document: bytes) -> None:
        """Let a name lead to a model; its manifest is a file, too."""
        self._files.write(_blob(digest_of(document)), document)
        self._files.write(_name(name), document)

    def list_names(self) -> list[str]:
        """Return the names of the models."""
        return [unquote(name) for name in self._files.list_names(_NAMES)]


def _read_whole(read_range: Callable[[int, int], Iterator[bytes]], size: int) -> bytes:
    """Return a small file of ``size`` bytes; it is asked for again if it breaks off. Raises StorageError."""
    reason = "it has fewer bytes than the remote says"
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_FIRST_PAUSE * 2 ** (attempt - 1))
        try:
            data = b"".join(read_range(0, size)) if size else b""
        except InterruptedTransferError as error:
            reason = str(error)
        else:
            if len(data) == size:
                return data
    raise StorageError(reason)


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _name(name: str) -> str:
    return f"{_NAMES}/{quote(name, safe='')}"
