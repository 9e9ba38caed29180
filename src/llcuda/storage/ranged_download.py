"""A file's way from a remote to this disk: in parts, over several connections, and hashed while it comes.

Beside the partial file lies how far each of its parts has come, so that no byte that is there is fetched again, by
whichever process. What the parts make together is compared with the digest: a server that mixes two files is found out.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import struct
import threading
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from llcuda.errors import StorageError
from llcuda.storage.pieces import CHUNK_BYTES
from llcuda.storage.remote import InterruptedTransferError, RangesRefusedError
from llcuda.store.atomic_files import sync, writing
from llcuda.store.download import STALL_TIMEOUT, require_space

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from llcuda.storage.pieces import RateLimit

__all__ = ["RangedDownload"]

_CONNECTIONS = 8
_HASHED_BYTES = 1 << 20
_FIRST_PAUSE = 0.5
_MAX_FUTILE_ROUNDS = 6
"""Times in a row that all connections bring nothing: 16 seconds."""
_MAX_RESTARTS = 5
_COUNT = struct.Struct("<Q")

_log = logging.getLogger("llcuda")


class RangedDownload:
    """The download of one file of a known size to a partial file, which nobody else writes meanwhile."""

    def __init__(
        self,
        read_range: Callable[[int, int], Iterator[bytes]],
        part: Path,
        size: int,
        *,
        url: str,
        limit: RateLimit,
        on_bytes: Callable[[int], object],
    ) -> None:
        """Fetch ``size`` bytes by ``read_range(start, end)`` to ``part``; ``on_bytes`` is told of all that is there.

        Errors call the file ``url``.
        """
        self._read_range, self._part, self._size, self._url = read_range, part, size, url
        self._limit, self._on_bytes = limit, on_bytes
        self._chunk_bytes = CHUNK_BYTES
        self._changed = threading.Condition()
        self._received: list[int] = []
        self._waiting: deque[int] = deque()
        self._connections = _CONNECTIONS
        self._busy = 0
        self._futile = 0
        self._failure: BaseException | None = None
        self._was_resumed = False

    @property
    def received(self) -> int:
        """How many bytes are there."""
        return sum(self._received)

    def run(self, expected: str) -> str:
        """Fetch what is missing, and return the digest of the whole. Raises StorageError, and ModelError.

        If it is not the ``expected`` one, and something was there before, all is fetched anew: that may be the fault.
        """
        digest = self._run_until_whole()
        if digest != expected and self._was_resumed:
            self._part.with_suffix(".chunks").unlink(missing_ok=True)
            digest = self._run_until_whole()
        return digest

    def _run_until_whole(self) -> str:
        for _ in range(_MAX_RESTARTS):
            with contextlib.suppress(RangesRefusedError):
                return self._run()
            # What has come of the whole is of no use to the next attempt.
            self._part.with_suffix(".chunks").unlink(missing_ok=True)
            self._chunk_bytes = max(self._size, 1)
        raise StorageError(f"{self._url}: the connection ends early again and again, and the server sends no parts")

    def _run(self) -> str:
        self._failure, self._busy, self._futile = None, 0, 0
        with writing(self._part), _open(self._part) as file, _open(self._part.with_suffix(".chunks")) as notes:
            self._read_notes(file, notes)
            require_space(self._url, self._part, self._size - self.received)
            file.truncate(self._size)
            self._on_bytes(self.received)
            digest = self._fetch(file, notes)
            sync(file)
        return digest

    def _read_notes(self, file: BinaryIO, notes: BinaryIO) -> None:
        """Take up what an earlier attempt has noted, if it was of the same parts and its file is there."""
        count = -(-self._size // self._chunk_bytes)
        head = _COUNT.pack(self._size) + _COUNT.pack(self._chunk_bytes)
        noted = notes.read()
        is_usable = (
            noted[: len(head)] == head
            and len(noted) == len(head) + count * _COUNT.size
            and os.fstat(file.fileno()).st_size == self._size
        )
        self._received, self._was_resumed = [0] * count, False
        if is_usable:
            given = [value for (value,) in _COUNT.iter_unpack(noted[len(head) :])]
            self._received = [min(value, self._length(number)) for number, value in enumerate(given)]
            self._was_resumed = self.received > 0
        else:
            file.truncate(0)
            notes.seek(0)
            notes.truncate(0)
            notes.write(head + bytes(count * _COUNT.size))
            notes.flush()
        self._waiting = deque(number for number in range(count) if not self._is_whole(number))

    def _length(self, number: int) -> int:
        return min(self._chunk_bytes, self._size - number * self._chunk_bytes)

    def _is_whole(self, number: int) -> bool:
        return self._received[number] == self._length(number)

    def _fetch(self, file: BinaryIO, notes: BinaryIO) -> str:
        self._connections = min(_CONNECTIONS, len(self._waiting))
        work = partial(self._work, file.fileno(), notes.fileno())
        threads = [threading.Thread(target=work, daemon=True) for _ in range(self._connections)]
        for thread in threads:
            thread.start()
        try:
            return self._hash(file.fileno())
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            for thread in threads:
                thread.join()

    def _hash(self, file: int) -> str:
        """Hash the file as its front comes, and return its digest."""
        state, position = hashlib.sha256(), 0
        while position < self._size:
            with self._changed:
                while (front := self._find_front(position)) == position and self._failure is None:
                    self._changed.wait()
                if self._failure is not None:
                    raise self._failure
            while position < front:
                piece = os.pread(file, min(_HASHED_BYTES, front - position), position)
                if not piece:
                    raise StorageError(f"{self._part} was cut off while it was written", hint="Try again.")
                state.update(piece)
                position += len(piece)
        return f"sha256:{state.hexdigest()}"

    def _find_front(self, position: int) -> int:
        """Return up to where everything is there, from ``position`` on. Parts of a MiB are not worth a look."""
        number = position // self._chunk_bytes
        while number < len(self._received) and self._is_whole(number):
            number += 1
        front = number * self._chunk_bytes + (self._received[number] if number < len(self._received) else 0)
        front = min(front, self._size)
        return front if front == self._size or front - position >= _HASHED_BYTES else position

    def _work(self, file: int, notes: int) -> None:
        try:
            while (number := self._take()) is not None:
                self._fetch_chunk(number, file, notes)
        except BaseException as error:  # noqa: BLE001 - the thread that waits raises it
            self._fail(error)

    def _take(self) -> int | None:
        """Return the next part to fetch, or None if there is none and none will come back."""
        with self._changed:
            while not self._waiting and self._busy and self._failure is None:
                self._changed.wait()
            if not self._waiting or self._failure is not None:
                return None
            self._busy += 1
            return self._waiting.popleft()

    def _fetch_chunk(self, number: int, file: int, notes: int) -> None:
        before, reason = self._received[number], ""
        try:
            self._receive(number, file, notes)
        except InterruptedTransferError as error:
            reason = str(error)
        with self._changed:
            self._busy -= 1
            if not self._is_whole(number):
                self._waiting.appendleft(number)
            self._futile = 0 if self._received[number] > before else self._futile + 1
            futile = self._futile
            self._changed.notify_all()
        if self._is_whole(number):
            return
        reason = reason or f"{self._url}: the connection ended early"
        rounds = futile // self._connections
        if rounds >= _MAX_FUTILE_ROUNDS:
            raise StorageError(reason)
        if futile == 1:
            _log.warning("%s; trying again", reason)
        self._pause(_FIRST_PAUSE * 2**rounds if futile else 0.0)

    def _receive(self, number: int, file: int, notes: int) -> None:
        start, length = number * self._chunk_bytes, self._length(number)
        place = 2 * _COUNT.size + number * _COUNT.size
        for piece in self._read_range(start + self._received[number], start + length):
            if self._failure is not None:
                return
            self._limit.pass_on(len(piece))
            _write_at(file, piece, start + self._received[number])
            with self._changed:
                before = self._received[number]
                self._received[number] += len(piece)
                if before // _HASHED_BYTES != self._received[number] // _HASHED_BYTES or self._is_whole(number):
                    self._changed.notify_all()
            _write_at(notes, _COUNT.pack(self._received[number]), place)
            self._on_bytes(len(piece))

    def _pause(self, seconds: float) -> None:
        """Wait, unless another part fails meanwhile."""
        deadline = time.monotonic() + min(seconds, STALL_TIMEOUT)
        with self._changed:
            while self._failure is None and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()


def _open(path: Path) -> BinaryIO:
    """Open a file to be written anywhere; one that is opened to append is not."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b")


def _write_at(file: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written
