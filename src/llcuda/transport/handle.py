"""End a request from another thread or task: while it connects, waits for its answer, or waits to be sent again."""

from __future__ import annotations

from threading import RLock
from typing import TYPE_CHECKING

from llcuda.errors import ConnectionFailedError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CLOSED", "Handle"]

CLOSED = "the client was closed while the request was under way"


class Handle:
    """One request, with all that is done for it. What waits for it gets ConnectionFailedError when it is ended."""

    # The lock is one that its thread can take twice: a stream that is garbage closes itself wherever that thread is.
    __slots__ = ("_cut", "_lock", "_reason", "closings", "url")

    def __init__(self, url: str, *, closings: int) -> None:
        """Begin; ``closings`` is how often the transport had been closed before."""
        self.url = url
        self.closings = closings
        self._lock = RLock()
        self._cut: Callable[[], object] | None = None
        self._reason = ""

    def hold(self, cut: Callable[[], object]) -> None:
        """Take what ends the wait that begins now. Raises ConnectionFailedError if the request was ended already."""
        with self._lock:
            self._cut = cut
        self.check()

    def release(self) -> None:
        """Cut nothing more: the connection is somebody else's from here on."""
        with self._lock:
            self._cut = None

    def end(self, reason: str) -> None:
        """End the request."""
        with self._lock:
            self._reason = self._reason or reason
            if self._cut is not None:
                self._cut()

    def check(self) -> None:
        """Raise ConnectionFailedError if the request was ended."""
        if self._reason:
            hint = "This program ended it itself; the client can be used again."
            raise ConnectionFailedError(self.url, self._reason, hint=hint)
