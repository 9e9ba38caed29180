"""Requests over kept-alive connections for asyncio: the twin of ``sync``, with the same framing and the same rules.

A deadline is one timer for each request that cuts its connection, and not a time-out around each read: that costs a
task for every token up to Python 3.11.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING

from llcuda.errors import ConnectionFailedError
from llcuda.transport.aio_handle import AsyncHandle
from llcuda.transport.handle import CLOSED
from llcuda.transport.http1 import ResponseReader, build_head, build_request
from llcuda.transport.sync import MAX_IDLE_CONNECTIONS, MAX_IDLE_SECONDS, READ_BYTES

if TYPE_CHECKING:
    import ssl

    from llcuda.transport.address import Address
    from llcuda.transport.deadline import Deadline

__all__ = ["AsyncExchange", "AsyncTransport"]


class AsyncExchange:
    """One request that was sent and its answer as it comes. Close it when done with it, also before its end."""

    __slots__ = (
        "_deadline", "_handle", "_late", "_loop", "_reader", "_spare", "_stream", "_timer", "_transport", "_writer",
        "closed",
    )  # fmt: skip

    def __init__(
        self,
        transport: AsyncTransport,
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        *,
        deadline: Deadline,
        handle: AsyncHandle,
    ) -> None:
        """Take over the ``connection``."""
        self._handle = handle
        self._transport = transport
        self._stream, self._writer = connection
        self._deadline = deadline
        self._reader = ResponseReader(transport.url)
        self._spare = b""
        self._late = False
        self.closed = False
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(deadline.remaining(), self._give_up)
        handle.cut = self._writer.transport.abort

    @property
    def status(self) -> int:
        """Return the HTTP status."""
        return self._reader.status

    @property
    def headers(self) -> dict[str, str]:
        """Return the answer's headers, names in lower case."""
        return self._reader.headers

    @property
    def untouched(self) -> bool:
        """Tell whether the server has sent nothing at all."""
        return not self._reader.started

    async def start(self, request: bytes) -> None:
        """Send the request and read up to the end of the answer's head."""
        self._handle.check()
        self._writer.write(request)
        try:
            await self._writer.drain()
        except OSError as error:
            raise self._failure(error) from None
        while not self._reader.status:
            self._spare = await self._receive()

    async def read(self) -> bytes:
        """Return the next piece of the body, as soon as there is one; nothing at its end."""
        piece, self._spare = self._spare, b""
        while not piece and not self._reader.complete:
            piece = await self._receive()
        return piece

    async def read_all(self, *, max_bytes: int | None = None) -> bytes:
        """Return the whole body and close. Raises ConnectionFailedError if it is longer than ``max_bytes``."""
        pieces, size = [], 0
        try:
            while piece := await self.read():
                pieces.append(piece)
                size += len(piece)
                if max_bytes is not None and size > max_bytes:
                    raise ConnectionFailedError(self._transport.url, f"the answer is longer than {max_bytes} bytes")
        finally:
            self.close()
        return b"".join(pieces)

    def close(self) -> None:
        """Keep the connection for the next request if the answer was read to its end, else cut it: that cancels."""
        if self.closed:
            return
        self.closed = True
        self._timer.cancel()
        self._handle.cut = None
        self._transport.forget(self._handle)
        if self._reader.complete and self._reader.keep_alive:
            self._transport.give(self._stream, self._writer)
        else:
            _cut(self._writer, self._loop)

    def _give_up(self) -> None:
        self._late = True
        _cut(self._writer, self._loop)

    async def _receive(self) -> bytes:
        try:
            data = await self._stream.read(READ_BYTES)
        except OSError as error:
            raise self._failure(error) from None
        if not data:
            self._handle.check()
            if self._late:
                raise self._deadline.error()
        return self._reader.feed(data)

    def _failure(self, error: OSError) -> Exception:
        self._handle.check()
        if self._late:
            return self._deadline.error()
        return ConnectionFailedError(self._transport.url, f"the connection broke ({_explain(error)})")


class AsyncTransport:
    """Requests to one server from one event loop at a time.

    Closing it ends those under way, and the connections that wait for the next request.
    """

    def __init__(self, address: Address, *, api_key: str | None, user_agent: str) -> None:
        """Prepare; nothing is opened before the first request."""
        self.url = address.url
        self._address = address
        self._head = build_head(address.authority, user_agent=user_agent, api_key=api_key)
        self._idle: deque[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = deque()
        self._handles: set[AsyncHandle] = set()
        self._closings = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        self._tls: ssl.SSLContext | None = None

    def begin(self) -> AsyncHandle:
        """Return the handle of a new request, for all the times that it is sent."""
        return AsyncHandle(self.url, closings=self._closings)

    async def exchange(
        self, method: str, target: str, *, body: bytes | None, deadline: Deadline, handle: AsyncHandle | None = None
    ) -> AsyncExchange:
        """Send a request and return the exchange as soon as the answer's head is there.

        With the ``handle`` another task can end it while it waits. Raises ConnectionFailedError where nobody listens
        or the connection breaks, and RequestTimeoutError.
        """
        request = build_request(method, self._address.base + target, head=self._head, body=body)
        handle = handle or self.begin()
        used = self._take()
        if used is not None:
            exchange = AsyncExchange(self, used, deadline=deadline, handle=handle)
            try:
                return await self._start(exchange, request, handle)
            except ConnectionFailedError:
                handle.check()
                if not exchange.untouched:
                    raise
        connection = await self._connect(deadline, handle)
        return await self._start(AsyncExchange(self, connection, deadline=deadline, handle=handle), request, handle)

    async def pause(self, seconds: float, *, handle: AsyncHandle) -> None:
        """Wait before a request is sent again, raising ConnectionFailedError where it is ended meanwhile."""
        self._watch(handle)
        try:
            await handle.pause(seconds)
        finally:
            self.forget(handle)

    def give(self, stream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Keep a connection for the next request."""
        loop = asyncio.get_running_loop()
        if len(self._idle) < MAX_IDLE_CONNECTIONS and not stream.at_eof() and self._loop is loop:
            self._idle.append((monotonic(), stream, writer))
        else:
            _cut(writer, loop)

    def forget(self, handle: AsyncHandle) -> None:
        """Take note that a request is over."""
        self._handles.discard(handle)

    def close(self) -> None:
        """End the requests under way and close all connections; a later request opens a new one."""
        self._closings += 1
        if self._loop is not None and not self._loop.is_closed() and self._pid == os.getpid():
            for handle in self._handles.copy():
                handle.end(CLOSED)
        self._close_idle()

    def __del__(self) -> None:
        """Close what an owner forgot to."""
        if hasattr(self, "_loop"):
            self._close_idle()

    def _close_idle(self) -> None:
        while self._idle and self._loop is not None:
            _cut(self._idle.pop()[2], self._loop)

    def _watch(self, handle: AsyncHandle) -> None:
        """Let the handle's request end when this is closed, also where that was between two of its attempts."""
        self._handles.add(handle)
        if handle.closings != self._closings:
            handle.end(CLOSED)

    async def _start(self, exchange: AsyncExchange, request: bytes, handle: AsyncHandle) -> AsyncExchange:
        self._watch(handle)
        try:
            await exchange.start(request)
        except BaseException:
            exchange.close()
            raise
        return exchange

    def _take(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Return the connection that was used last, if the server has not closed it."""
        loop, pid = asyncio.get_running_loop(), os.getpid()
        if self._loop is not loop or self._pid != pid:
            if self._pid == pid:
                self._close_idle()
            self._idle, self._handles = deque(), set()
            self._loop, self._pid = loop, pid
        while self._idle:
            since, stream, writer = self._idle.pop()
            if monotonic() - since < MAX_IDLE_SECONDS and not stream.at_eof() and not writer.is_closing():
                return stream, writer
            _cut(writer, loop)
        return None

    async def _connect(
        self, deadline: Deadline, handle: AsyncHandle
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        timeout = deadline.remaining()
        self._watch(handle)
        try:
            stream, writer = await handle.open(self._open(), timeout=timeout)
        except ConnectionFailedError:
            raise
        except TimeoutError:
            raise deadline.error() from None
        except socket.gaierror as error:
            raise ConnectionFailedError(self.url, f"the host is not known ({error.strerror or error})") from None
        except OSError as error:
            refused = error.errno == errno.ECONNREFUSED
            raise ConnectionFailedError(self.url, f"cannot connect ({_explain(error)})", refused=refused) from None
        finally:
            self.forget(handle)
        if not self._address.is_unix:
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return stream, writer

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        address = self._address
        if address.is_unix:
            return await asyncio.open_unix_connection(address.host, limit=READ_BYTES)
        return await asyncio.open_connection(address.host, address.port, ssl=self._choose_tls(), limit=READ_BYTES)

    def _choose_tls(self) -> ssl.SSLContext | None:
        if self._address.scheme == "https" and self._tls is None:
            import ssl  # noqa: PLC0415 - plain http need not pay for it

            self._tls = ssl.create_default_context()
        return self._tls


def _cut(writer: asyncio.StreamWriter, loop: asyncio.AbstractEventLoop) -> None:
    """Close a connection at once. One that outlived its loop is left to asyncio, which warns of it."""
    if not loop.is_closed():
        writer.transport.abort()


def _explain(error: OSError) -> str:
    """Return the reason without the addresses that asyncio puts into it. A TLS error has a numbering of its own."""
    if error.errno and not hasattr(error, "library"):
        return os.strerror(error.errno)
    return error.strerror or str(error)
