"""A request that came over gRPC, as the gateway sees any other: an exchange whose answer stays in memory."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from llcuda.gateway.http.exchange import Exchange

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from llcuda.fleet.refusals import RefusedError

__all__ = ["CallExchange"]

_MAX_HELD_BYTES = 64 << 10


class CallExchange(Exchange):
    """What a worker answers is held until the call has taken it; a worker waits while more than 64 KiB are held."""

    __slots__ = ("_changed", "_held_bytes", "_is_gone", "_is_waiting", "_queue", "answer", "error")

    def __init__(self, path: str, *, headers: dict[str, str], method: str = "POST") -> None:
        """Begin a request of these headers; its body is for :meth:`add_body`."""
        super().__init__()
        self._changed = asyncio.Event()
        self._queue: deque[bytes] = deque()
        self._held_bytes = 0
        self._is_gone = self._is_waiting = False
        self.answer = b""
        self.error: RefusedError | None = None
        # Names cannot be rebound here: no browser speaks this protocol. Origins are looked at all the same.
        self.headers = {"host": "localhost", "content-type": "application/json", **headers}
        self.read_head(method, path, "1.1")

    @property
    def is_gone(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self._is_gone

    def leave(self) -> None:
        """Take no more of the answer."""
        self._is_gone = True

    def respond(
        self, status: int, body: bytes, *, content_type: str = "application/json", headers: Iterable[str] = ()
    ) -> None:
        """Keep a whole answer."""
        del content_type, headers
        self.status, self.answer, self.bytes_out = status, body, len(body)
        self.started = self.finished = True
        self._changed.set()

    def refuse(self, error: RefusedError) -> None:
        """Keep an error."""
        self.error = error.without_frames()
        self.respond(error.status, b"")

    def start_stream(self, status: int, content_type: str) -> None:
        """Begin an answer that comes in pieces."""
        del content_type
        self.status = status

    def write(self, data: bytes, *, is_last: bool = False) -> None:
        """Hold a piece until it is taken, and let the source wait if too much is held."""
        self.started, self.finished = True, is_last
        self._queue.append(data)
        self._held_bytes += len(data)
        self.bytes_out += len(data)
        self._changed.set()
        if self._held_bytes > _MAX_HELD_BYTES and not self._is_waiting:
            self._is_waiting = True
            self.pause()

    @property
    def is_slow(self) -> bool:
        """Whether too much is held."""
        return self._is_waiting

    async def pieces(self, task: asyncio.Task[Any]) -> AsyncIterator[bytes]:
        """Yield the pieces of a stream as they come, until the ``task`` that answers is done."""
        task.add_done_callback(lambda _: self._changed.set())
        while True:
            while self._queue:
                yield self._take()
            if task.done():
                return
            self._changed.clear()
            await self._changed.wait()

    def _take(self) -> bytes:
        data = self._queue.popleft()
        self._held_bytes -= len(data)
        if self._is_waiting and self._held_bytes <= _MAX_HELD_BYTES // 2:
            self._is_waiting = False
            self.resume()
        return data
