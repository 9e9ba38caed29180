"""End a request from another thread: while it connects, waits for its answer, or waits to be sent again."""

from __future__ import annotations

import socket
from contextlib import suppress
from threading import Event, RLock

from llcuda.errors import ConnectionFailedError

__all__ = ["CLOSED", "Handle", "was_ended"]

CLOSED = "the client was closed while the request was under way"


def was_ended(url: str, reason: str) -> ConnectionFailedError:
    """Return the error of a request that was ended on this side."""
    return ConnectionFailedError(url, reason, hint="This program ended it itself; the client can be used again.")


class Handle:
    """One request, with all that is done for it. What waits for it gets ConnectionFailedError when it is ended."""

    # The lock is one that its thread can take twice: a stream that is garbage closes itself wherever that thread is.
    __slots__ = ("_connection", "_lock", "_reason", "_waking", "closings", "url")

    def __init__(self, url: str, *, closings: int) -> None:
        """Begin; ``closings`` is how often the transport had been closed before."""
        self.url = url
        self.closings = closings
        self._lock = RLock()
        self._connection: socket.socket | None = None
        self._waking: Event | None = None
        self._reason = ""

    def hold(self, connection: socket.socket) -> None:
        """Take the connection that is cut if the request is ended, raising where it was already."""
        with self._lock:
            self._connection = connection
        self.check()

    def release(self) -> None:
        """Cut the connection no more: it is somebody else's from here on."""
        with self._lock:
            self._connection = None

    def end(self, reason: str) -> None:
        """End the request, from any thread."""
        with self._lock:
            self._reason = self._reason or reason
            if self._waking is not None:
                self._waking.set()
            if self._connection is not None:
                with suppress(OSError):  # it may have ended by itself
                    # Not TLS's own shutdown, which takes away what the other thread is reading from.
                    socket.socket.shutdown(self._connection, socket.SHUT_RDWR)

    def check(self) -> None:
        """Raise ConnectionFailedError where the request was ended."""
        if self._reason:
            raise was_ended(self.url, self._reason)

    def pause(self, seconds: float) -> None:
        """Wait, unless the request is ended meanwhile."""
        with self._lock:
            waking = self._waking = Event()
        if not self._reason:
            waking.wait(seconds)
        self.check()
