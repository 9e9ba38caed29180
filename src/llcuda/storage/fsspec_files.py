"""What fsspec reaches as a remote: SFTP, SMB, HDFS and others, if it is installed with what they need."""

from __future__ import annotations

import contextlib
import secrets
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llcuda.errors import StorageError
from llcuda.storage.remote import InterruptedTransferError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llcuda.storage.pieces import Upload

__all__ = ["FsspecFiles"]

_TEMPORARY = ".part"
_MAX_REASON = 400


class FsspecFiles:
    """The files under an address of fsspec's."""

    def __init__(self, url: str) -> None:
        """Use an address. Nothing is asked before something is wanted."""
        self.url = url.rstrip("/")

    @cached_property
    def _place(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs  # noqa: PLC0415 - loaded only when needed

        with self._translating(""):
            system, path = url_to_fs(self.url)
        return system, path.rstrip("/")

    def find_bytes(self, key: str) -> int | None:
        """Return how many bytes a file has, or None if there is none."""
        system, root = self._place
        with self._translating(key), contextlib.suppress(FileNotFoundError):
            return int(system.info(f"{root}/{key}")["size"])
        return None

    def read_range(self, key: str, start: int, end: int) -> Iterator[bytes]:
        """Yield a part of a file."""
        system, root = self._place
        try:
            with self._translating(key):
                data = system.cat_file(f"{root}/{key}", start=start, end=end)
        except StorageError as error:
            raise InterruptedTransferError(str(error)) from None
        yield bytes(data)

    def put(self, key: str, upload: Upload) -> None:
        """Keep a file under another name, and give it its own when it is whole."""
        self._keep(key, upload.pieces())

    def write(self, key: str, data: bytes) -> None:
        """Keep a small file."""
        self._keep(key, iter([data]))

    def list_names(self, folder: str) -> list[str]:
        """Return the files in a folder."""
        system, root = self._place
        found = []
        with self._translating(folder), contextlib.suppress(FileNotFoundError):
            found = [str(one).rstrip("/").rpartition("/")[2] for one in system.ls(f"{root}/{folder}", detail=False)]
        return [name for name in found if not name.endswith(_TEMPORARY)]

    def _keep(self, key: str, pieces: Iterator[bytes]) -> None:
        system, root = self._place
        path = f"{root}/{key}"
        temporary = f"{path}.{secrets.token_hex(8)}{_TEMPORARY}"
        with self._translating(key):
            system.makedirs(path.rpartition("/")[0], exist_ok=True)
            with system.open(temporary, "wb") as file:
                for piece in pieces:
                    file.write(piece)
            system.mv(temporary, path)

    @contextlib.contextmanager
    def _translating(self, key: str) -> Iterator[None]:
        """Turn whatever the library of a file system raises into a StorageError."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - each file system has errors of its own
            address = f"{self.url}/{key}".rstrip("/")
            raise StorageError(f"{address}: {type(error).__name__}: {str(error)[:_MAX_REASON]}") from None
