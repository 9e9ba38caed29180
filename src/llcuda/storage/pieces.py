"""What goes and comes in pieces: how large a part is, how many bytes a second, and a file that is read so."""

from __future__ import annotations

import io
import threading
import time
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["CHUNK_BYTES", "RateLimit", "Upload"]

CHUNK_BYTES = 8 << 20
"""The part of a file that is sent or fetched at a time, and all that is sent again if a connection breaks."""
_PIECE_BYTES = 1 << 18


class RateLimit:
    """Lets bytes pass, and waits if more of them came than a second may have."""

    def __init__(self, bytes_per_second: int | None = None) -> None:
        """Allow so many bytes a second; None allows any number."""
        self._rate = bytes_per_second
        self._lock = threading.Lock()
        self._free_at = 0.0

    def pass_on(self, count: int) -> None:
        """Wait until bytes that have come, or go now, are within the limit."""
        if self._rate is None:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + count / self._rate
            wait = self._free_at - now
        time.sleep(wait)


class Upload:
    """A file that may be sent more than once."""

    def __init__(self, path: Path, *, limit: RateLimit, on_bytes: Callable[[int], object]) -> None:
        """Send the file at ``path``; ``on_bytes`` is told of its bytes, less those that have to be sent again."""
        self.path = path
        self.bytes = path.stat().st_size
        self._limit = limit
        self._on_bytes = on_bytes
        self._furthest = 0

    def open(self, start: int = 0, end: int | None = None) -> _Part:
        """Return a part of the file as a body for requests: all of it, or the bytes from ``start`` to ``end``."""
        end = self.bytes if end is None else min(end, self.bytes)
        return _Part(self.path.open("rb"), start, end, on_piece=self._count)

    def pieces(self) -> Iterator[bytes]:
        """Yield the whole file."""
        with self.open() as file:
            while piece := file.read():
                yield piece

    def _count(self, position: int, count: int) -> None:
        self._limit.pass_on(count)
        if position > self._furthest:
            self._on_bytes(position - self._furthest)
            self._furthest = position


class _Part(io.RawIOBase):
    def __init__(self, file: BinaryIO, start: int, end: int, *, on_piece: Callable[[int, int], object]) -> None:
        self._file, self._end, self._on_piece = file, end, on_piece
        self._size = end - start
        file.seek(start)

    def __len__(self) -> int:
        return self._size

    def read(self, size: int = -1) -> bytes:
        missing = self._end - self._file.tell()
        piece = self._file.read(min(missing, _PIECE_BYTES if size < 0 else size))
        if piece:
            self._on_piece(self._file.tell(), len(piece))
        return piece

    def close(self) -> None:
        self._file.close()
        super().close()
