"""Connections of asyncio's streams, and the transport of one event loop at a time.

A deadline is one timer for each request that cuts its connection, and not a time-out around each read: that costs a
task for every token up to Python 3.11.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any

from llcuda.transport.base_transport import READ_BYTES, BaseTransport, ClientConnection

if TYPE_CHECKING:
    from llcuda.transport.base_transport import Handle
    from llcuda.transport.deadline import Deadline

    _Opening = asyncio.Task[tuple[asyncio.StreamReader, asyncio.StreamWriter]]


class AsyncTransport(BaseTransport):
    """Requests to one server from one event loop at a time."""

    def _find_owner(self) -> object:
        return os.getpid(), asyncio.get_running_loop()

    async def _wait(self, seconds: float, handle: Handle) -> None:
        await asyncio.wait({_hold(handle)}, timeout=seconds)

    async def _open(self, deadline: Deadline, handle: Handle) -> ClientConnection:
        timeout = deadline.remaining()
        waking = _hold(handle)
        task = asyncio.ensure_future(self._open_streams())
        try:
            waiting: set[asyncio.Future[Any]] = {task, waking}
            await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            handle.check()
            connection = _Streamed(*_take_result(task))
        except BaseException:
            await _drop(task)
            raise
        if not self._address.is_unix:
            connection.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    async def _open_streams(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        address = self._address
        if address.is_unix:
            return await asyncio.open_unix_connection(address.host, limit=READ_BYTES)
        return await asyncio.open_connection(address.host, address.port, ssl=self._choose_tls(), limit=READ_BYTES)


class _Streamed:
    __slots__ = ("_late", "_loop", "_stream", "_timer", "owner", "writer")

    def __init__(self, stream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._stream, self.writer = stream, writer
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._late = False
        self.owner = os.getpid(), self._loop

    @property
    def usable(self) -> bool:
        return not self._stream.at_eof() and not self.writer.is_closing()

    def limit(self, deadline: Deadline | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if deadline is None else self._loop.call_later(deadline.remaining(), self._give_up)

    async def send(self, request: bytes) -> None:
        self.writer.write(request)
        try:
            await self.writer.drain()
        except OSError:
            self._check_time()
            raise

    async def receive(self) -> bytes:
        try:
            data = await self._stream.read(READ_BYTES)
        except OSError:
            self._check_time()
            raise
        if not data:
            self._check_time()
        return data

    def cut(self) -> None:
        """Close it at once. One that outlived its loop is left to asyncio, which warns of it."""
        if self.owner[0] == os.getpid() and not self._loop.is_closed():
            self.writer.transport.abort()

    close = cut

    def _give_up(self) -> None:
        self._late = True
        self.cut()

    def _check_time(self) -> None:
        if self._late:
            raise TimeoutError


def _hold(handle: Handle) -> asyncio.Future[None]:
    """Return a future that is done when the handle's request is ended."""
    loop = asyncio.get_running_loop()
    waking: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not waking.done() and not loop.is_closed():
            waking.set_result(None)

    handle.hold(wake)
    return waking


def _take_result(task: _Opening) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if not task.done():
        raise TimeoutError
    return task.result()


async def _drop(task: _Opening) -> None:
    """Cancel the task, and close what it opened all the same."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled() and task.exception() is None:
        _, writer = task.result()
        writer.transport.abort()
