"""A folder as a remote: a disk that several machines mount, or one that is carried."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from llcuda.errors import StorageError
from llcuda.store import place_file
from llcuda.store.atomic_files import reading

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llcuda.storage.pieces import Upload

__all__ = ["FolderFiles"]

_PIECE_BYTES = 1 << 20


class FolderFiles:
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

    def read_range(self, key: str, start: int, end: int) -> Iterator[bytes]:
        """Yield a part of a file."""
        path = self._root / key
        try:
            with path.open("rb") as file:
                file.seek(start)
                while piece := file.read(min(_PIECE_BYTES, end - file.tell())):
                    yield piece
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {error.strerror}") from None

    def put(self, key: str, upload: Upload) -> None:
        """Keep a copy of a file."""
        with place_file(self._root / key) as target:
            target.writelines(upload.pieces())

    def write(self, key: str, data: bytes) -> None:
        """Keep a small file."""
        with place_file(self._root / key) as file:
            file.write(data)

    def list_names(self, folder: str) -> list[str]:
        """Return the files in a folder."""
        path = self._root / folder
        with reading(path):
            return [one.name for one in path.iterdir() if not one.name.startswith(".")] if path.is_dir() else []
