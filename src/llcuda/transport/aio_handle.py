"""End a request from another task: the twin of ``handle``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from llcuda.transport.handle import was_ended

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["AsyncHandle"]


class AsyncHandle:
    """One request, with all that is done for it. What waits for it gets ConnectionFailedError when it is ended."""

    __slots__ = ("_reason", "_waking", "closings", "cut", "url")

    def __init__(self, url: str, *, closings: int) -> None:
        """Begin; ``closings`` is how often the transport had been closed before."""
        self.url = url
        self.closings = closings
        self.cut: Callable[[], object] | None = None
        """What cuts the connection that the request has now."""
        self._waking: asyncio.Future[None] | None = None
        self._reason = ""

    def end(self, reason: str) -> None:
        """End the request."""
        self._reason = self._reason or reason
        if self._waking is not None and not self._waking.done():
            self._waking.set_result(None)
        if self.cut is not None:
            self.cut()

    def check(self) -> None:
        """Raise ConnectionFailedError where the request was ended."""
        if self._reason:
            raise was_ended(self.url, self._reason)

    async def pause(self, seconds: float) -> None:
        """Wait, unless the request is ended meanwhile."""
        self.check()
        self._waking = asyncio.get_running_loop().create_future()
        await asyncio.wait({self._waking}, timeout=seconds)
        self.check()

    async def open(self, connecting: Coroutine[Any, Any, Any], *, timeout: float) -> Any:
        """Return what ``connecting`` does, raising TimeoutError where it is late, unless the request is ended."""
        self._waking = asyncio.get_running_loop().create_future()
        task = asyncio.ensure_future(connecting)
        try:
            self.check()
            await asyncio.wait({task, self._waking}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            self.check()
            return _take_result(task)
        except BaseException:
            await _drop(task)
            raise


def _take_result(task: asyncio.Task[Any]) -> Any:
    if not task.done():
        raise TimeoutError
    return task.result()


async def _drop(task: asyncio.Task[Any]) -> None:
    """Cancel the task, and close what it opened all the same."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled() and task.exception() is None:
        _, writer = task.result()
        writer.transport.abort()
