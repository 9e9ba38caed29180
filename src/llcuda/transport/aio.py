"""Requests over kept-alive connections for asyncio: the twin of ``sync``, with the same framing and the same rules.

A deadline is one timer for each request that cuts its connection, and not a time-out around each read: that costs a
task for every token up to Python 3.11.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING

from llcuda.errors import ConnectionFailedError
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
        "_deadline", "_late", "_loop", "_reader", "_spare", "_stream", "_timer", "_transport", "_writer", "closed",
    )  # fmt: skip

    def __init__(
        self,
        transport: AsyncTransport,
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        *,
        deadline: Deadline,
    ) -> None:
        """Take over the ``connection``."""
        self._transport = transport
        self._stream, self._writer = connection
        self._deadline = deadline
        self._reader = ResponseReader(transport.url)
        self._spare = b""
        self._late = False
        self.closed = False
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(deadline.remaining(), self._give_up)

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

    async def read_all(self) -> bytes:
        """Return the whole body and close."""
        pieces = []
        try:
            while piece := await self.read():
                pieces.append(piece)
        finally:
            self.close()
        return b"".join(pieces)

    def close(self) -> None:
        """Keep the connection for the next request if the answer was read to its end, else cut it: that cancels."""
        if self.closed:
            return
        self.closed = True
        self._timer.cancel()
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
        if not data and self._late:
            raise self._deadline.error()
        return self._reader.feed(data)

    def _failure(self, error: OSError) -> Exception:
        if self._late:
            return self._deadline.error()
        return ConnectionFailedError(self._transport.url, f"the connection broke ({_explain(error)})")


class AsyncTransport:
    """Requests to one server from one event loop at a time."""

    def __init__(self, address: Address, *, api_key: str | None, user_agent: str) -> None:
        """Prepare; nothing is opened before the first request."""
        self.url = address.url
        self._address = address
        self._head = build_head(address.authority, user_agent=user_agent, api_key=api_key)
        self._idle: deque[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        self._tls: ssl.SSLContext | None = None

    async def exchange(self, method: str, target: str, *, body: bytes | None, deadline: Deadline) -> AsyncExchange:
        """Send a request and return the exchange as soon as the answer's head is there.

        Raises ConnectionFailedError where nobody listens or the connection breaks, and RequestTimeoutError.
        """
        request = build_request(method, self._address.base + target, head=self._head, body=body)
        used = self._take()
        if used is not None:
            exchange = AsyncExchange(self, used, deadline=deadline)
            try:
                return await self._start(exchange, request)
            except ConnectionFailedError:
                if not exchange.untouched:
                    raise
        return await self._start(AsyncExchange(self, await self._connect(deadline), deadline=deadline), request)

    def give(self, stream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Keep a connection for the next request."""
        loop = asyncio.get_running_loop()
        if len(self._idle) < MAX_IDLE_CONNECTIONS and not stream.at_eof() and self._loop is loop:
            self._idle.append((monotonic(), stream, writer))
        else:
            _cut(writer, loop)

    def close(self) -> None:
        """Close the connections that are not in use; a later request opens a new one."""
        while self._idle and self._loop is not None:
            _cut(self._idle.pop()[2], self._loop)

    def __del__(self) -> None:
        """Close what an owner forgot to."""
        if hasattr(self, "_idle"):
            self.close()

    @staticmethod
    async def _start(exchange: AsyncExchange, request: bytes) -> AsyncExchange:
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
                self.close()
            self._idle = deque()
            self._loop, self._pid = loop, pid
        while self._idle:
            since, stream, writer = self._idle.pop()
            if monotonic() - since < MAX_IDLE_SECONDS and not stream.at_eof() and not writer.is_closing():
                return stream, writer
            _cut(writer, loop)
        return None

    async def _connect(self, deadline: Deadline) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        address = self._address
        timeout = deadline.remaining()
        try:
            stream, writer = await asyncio.wait_for(self._open(), timeout)
        except (TimeoutError, asyncio.TimeoutError):
            raise deadline.error() from None
        except socket.gaierror as error:
            raise ConnectionFailedError(self.url, f"the host is not known ({error.strerror or error})") from None
        except OSError as error:
            raise ConnectionFailedError(self.url, f"cannot connect ({_explain(error)})") from None
        if not address.is_unix:
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
