"""The events of one piece of work, as a stream to the client that asked for it."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from llcuda.fleet.timeouts import timeout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llcuda.gateway.http.exchange import Exchange

__all__ = ["Feed", "fail"]

_HEARTBEAT_INTERVAL = 5.0
_HEARTBEAT = b": still at it\n\n"


class Feed:
    """What is told is sent as it comes, and a comment if nothing comes for some seconds.

    The work never waits for the client: what is told when there is none is forgotten.
    """

    def __init__(self) -> None:
        self._events: deque[Mapping[str, Any]] = deque()
        self._news = asyncio.Event()
        self._has_ended = self._is_left = False

    def tell(self, event: Mapping[str, Any]) -> None:
        """Send an event."""
        if not self._is_left:
            self._events.append(event)
            self._news.set()

    def end(self, event: Mapping[str, Any]) -> None:
        """Send the last event."""
        self.tell(event)
        self._has_ended = True

    async def send_to(self, exchange: Exchange) -> None:
        """Answer with everything that is told, and return after the last."""
        exchange.is_untimed = True
        exchange.start_stream(200, "text/event-stream")
        exchange.write(_HEARTBEAT)  # the head is sent at once, even if the first event takes its time
        try:
            while not exchange.finished:
                await self._wait()
                self._write(exchange)
        finally:
            self._is_left = True
            self._events.clear()

    async def _wait(self) -> None:
        with suppress(asyncio.TimeoutError):
            async with timeout(_HEARTBEAT_INTERVAL):
                await self._news.wait()
        self._news.clear()

    def _write(self, exchange: Exchange) -> None:
        text = b"".join(f"data: {json.dumps(event)}\n\n".encode() for event in self._events)
        self._events.clear()
        exchange.write(text or _HEARTBEAT, is_last=self._has_ended)


def fail(message: str, *, hint: str = "", rolled_back: bool | None = None) -> dict[str, Any]:
    """Return the last event of what did not come to its end."""
    event: dict[str, Any] = {"step": "failed", "message": message, "hint": hint}
    return event if rolled_back is None else {**event, "rolled_back": rolled_back}
