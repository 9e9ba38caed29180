"""What an engine has in flight: it may be asked from several threads, and its server ends only between requests."""

from __future__ import annotations

from contextlib import contextmanager
from threading import RLock
from typing import TYPE_CHECKING
from weakref import WeakSet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from llcuda.client import TextStream

__all__ = ["Flights"]


class Flights:
    """Counts the requests that wait for an answer, and knows the streams that are still open."""

    def __init__(self) -> None:
        """Begin with none."""
        self._lock = RLock()  # reentrant, so that a signal handler may ask too
        self._calls = 0
        self._streams: WeakSet[TextStream] = WeakSet()

    @contextmanager
    def begin(self, between: Callable[[], object]) -> Iterator[None]:
        """Count a request for as long as the block runs; where it is the only one, call ``between`` first.

        No other request begins while ``between`` runs. It is never waited for a moment without requests: who holds a
        stream open and asks again would wait for itself.
        """
        with self._lock:
            if not self._calls and all(stream.closed for stream in self._streams):
                between()
            self._calls += 1
        try:
            yield
        finally:
            with self._lock:
                self._calls -= 1

    def add_stream(self, stream: TextStream) -> None:
        """Count the stream until it comes to its end, is closed or dropped."""
        with self._lock:
            self._streams.add(stream)
