"""A folder as a remote: a disk that several machines mount, or one that is carried."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from llcuda.errors import StorageError
from llcuda.store import place_file
from llcuda.store.atomic_files import reading

if TYPE_CHECKING:
    from typing import BinaryIO

__all__ = ["FolderRemote"]

_COPY_BYTES = 1 << 20


class FolderRemote:
    """The files under a folder."""

    def __init__(self, url: str) -> None:
        """Use the folder of a ``file://`` address. Nothing is created before something is kept."""
        self.url = url
        self._root = Path(unquote(urlsplit(url).path))

    def find_bytes(self, key: str) -> int | None:
        """Return how many bytes a file has, or None if there is none."""
        path = self._root / key
        with reading(path):
            return path.stat().st_size if path.is_file() else None

    def read(self, key: str, *, max_bytes: int) -> bytes | None:
        """Return a small file, or None if there is none."""
        size = self.find_bytes(key)
        if size is None:
            return None
        if size > max_bytes:
            raise StorageError(f"{self.url}/{key} has {size} bytes, and may have {max_bytes}")
        with reading(self._root / key):
            return (self._root / key).read_bytes()

    def fetch(self, key: str, part: Path, *, is_shown: bool) -> None:  # noqa: ARG002 - a disk is fast
        """Copy a file to ``part``."""
        with reading(self._root / key), (self._root / key).open("rb") as source, place_file(part) as file:
            _copy(source, file)

    def put(self, key: str, file: Path, *, is_shown: bool) -> None:  # noqa: ARG002 - a disk is fast
        """Keep a copy of a file."""
        with reading(file), file.open("rb") as source, place_file(self._root / key) as target:
            _copy(source, target)

    def write(self, key: str, data: bytes) -> None:
        """Keep a small file."""
        with place_file(self._root / key) as file:
            file.write(data)

    def list_names(self, folder: str) -> list[str]:
        """Return the files in a folder."""
        path = self._root / folder
        with reading(path):
            return sorted(one.name for one in path.iterdir() if not one.name.startswith(".")) if path.is_dir() else []


def _copy(source: BinaryIO, target: BinaryIO) -> None:
    shutil.copyfileobj(source, target, _COPY_BYTES)
