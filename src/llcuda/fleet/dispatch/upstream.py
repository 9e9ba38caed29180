"""Connections to one llama-server: kept alive, one request on each at a time, answers handed on as they come.

This is not ``transport.aio``, whose streams wake a task for each token: that is 2 callbacks of the loop and 43 calls in
Python for one, here 1 and 16.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

from llcuda.fleet.dispatch.answer_reader import AnswerReader, UpstreamFailedError
from llcuda.fleet.refusals import RefusedError
from llcuda.fleet.timeouts import timeout
from llcuda.transport.http1 import build_head, build_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from llcuda.transport.address import Address

__all__ = ["PlainAnswer", "Reception", "Upstream"]

# llama-server closes a connection after five idle seconds, and after its hundredth request, which it says.
_MAX_IDLE_SECONDS = 4.0
_MAX_IDLE_CONNECTIONS = 256
_CONNECT_TIMEOUT = 2.0
_MAX_PLAIN_BYTES = 64 << 20


class Reception(Protocol):
    """Who takes an answer as it comes. A RefusedError that it raises ends the request."""

    def on_head(self, status: int, headers: dict[str, str]) -> None:
        """Take status and headers."""

    def on_body(self, data: bytes, *, is_last: bool) -> None:
        """Take a piece of the body; the last one may be empty."""


class PlainAnswer:
    """An answer that comes whole, an error among them."""

    def __init__(self) -> None:
        """Wait for it."""
        self.status = 0
        self.content_type = "application/json"
        self.is_stream = False
        """Whether the worker streams: an error it answers whole."""
        self.body = b""
        """All of it, once it has come."""
        self._pieces: list[bytes] = []
        self._bytes = 0

    def on_head(self, status: int, headers: dict[str, str]) -> None:
        """Take status and headers."""
        self.status = status
        self.content_type = headers.get("content-type", self.content_type)
        self.is_stream = status == HTTPStatus.OK and self.content_type.startswith("text/event-stream")

    def on_body(self, data: bytes, *, is_last: bool) -> None:
        """Take a piece."""
        self._bytes += len(data)
        if self._bytes > _MAX_PLAIN_BYTES:
            raise RefusedError(502, f"the answer is larger than {_MAX_PLAIN_BYTES} bytes", code="answer_too_large")
        self._pieces.append(data)
        if is_last:
            self.body, self._pieces = b"".join(self._pieces), []


class _Link(asyncio.Protocol):
    """One connection to a llama-server."""

    __slots__ = ("_done", "_on_life", "_reader", "_reception", "idle_since", "transport", "used")

    def __init__(self) -> None:
        self._on_life: Callable[[], object]
        self._reception: Reception | None = None
        self._reader: AnswerReader | None = None
        self._done: asyncio.Future[None] | None = None
        self.transport: asyncio.Transport
        self.idle_since = 0.0
        self.used = False

    @property
    def is_untouched(self) -> bool:
        """Whether nothing of an answer has come."""
        return self._reader is None or not self._reader.started

    @property
    def can_be_kept(self) -> bool:
        """Whether it can carry another request."""
        reader = self._reader
        return reader is not None and reader.complete and reader.keep_alive and not self.transport.is_closing()

    def send(
        self, request: bytes, reception: Reception, *, done: asyncio.Future[None], on_life: Callable[[], object]
    ) -> None:
        """Send a request; ``done`` is set at the end of its answer, ``on_life`` called whenever some of it comes."""
        self._reception, self._done, self._on_life = reception, done, on_life
        self._reader = AnswerReader()
        if self.transport.is_closing():
            # It was lost before anybody listened, and nobody will say so again.
            self._fail(UpstreamFailedError("the connection was closed"))
        else:
            self.transport.write(request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what asyncio's connections give
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        reader, reception = self._reader, self._reception
        if reader is None or reception is None:
            self.transport.abort()
            return
        self._on_life()
        try:
            self._take(reader, reception, data)
        except (UpstreamFailedError, RefusedError) as error:
            self._fail(error)

    def connection_lost(self, error: Exception | None) -> None:
        if self._done is None or self._done.done() or self._reader is None or self._reception is None:
            return
        try:
            self._reader.close()
            self._end(self._reception, b"")
        except UpstreamFailedError as failure:
            self._fail(UpstreamFailedError(str(error)) if error else failure)

    def _take(self, reader: AnswerReader, reception: Reception, data: bytes) -> None:
        had_head = reader.status
        body = reader.feed(data)
        if not had_head and reader.status:
            reception.on_head(reader.status, reader.headers)
        if reader.complete:
            self._end(reception, body)
        elif body:
            reception.on_body(body, is_last=False)

    def _end(self, reception: Reception, body: bytes) -> None:
        reception.on_body(body, is_last=True)
        self._reception = None
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _fail(self, error: Exception) -> None:
        self._reception = None
        self.transport.abort()
        if self._done is not None and not self._done.done():
            self._done.set_exception(error)


class Upstream:
    """The connections to one llama-server."""

    def __init__(self, address: Address, *, api_key: str | None, on_life: Callable[[], object]) -> None:
        """Open nothing yet; ``on_life`` is called whenever something comes from the server."""
        self._address = address
        self._tls: ssl.SSLContext | None = None
        self._head = build_head(address.authority, user_agent="llcuda", api_key=api_key)
        self._on_life = on_life
        self._idle: deque[_Link] = deque()
        self._busy: dict[_Link, None] = {}  # the oldest first: so they are cut, and so their requests are tried again
        self._is_closed = False
        self._loop = asyncio.get_running_loop()

    def build(self, method: str, path: str, body: bytes | None) -> bytes:
        """Return a request's bytes."""
        return build_request(method, self._address.base + path, head=self._head, body=body)

    async def exchange(
        self,
        request: bytes,
        reception: Reception,
        *,
        on_link: Callable[[asyncio.Transport], object] | None = None,
        on_life: Callable[[], object] | None = None,
    ) -> None:
        """Send a request, hand its answer to ``reception``, and return at its end.

        ``on_link`` is given the transport, for whoever wants to stop and go on reading it; ``on_life`` is called
        whenever something comes. A request that got not one byte on a connection that was used before is sent once
        more on a new one: the server may close an idle connection at any moment. Raises UpstreamFailedError, and the
        reception's RefusedError. Whoever is cancelled here cuts the connection, and the server stops generating.
        """
        link = self._take()
        was_sent = False
        if link is not None:
            try:
                return await self._run(link, request, reception=reception, on_link=on_link, on_life=on_life)
            except UpstreamFailedError:
                if self._is_closed or not link.is_untouched:
                    raise
                was_sent = True
        link = await self._connect(was_sent=was_sent)
        return await self._run(link, request, reception=reception, on_link=on_link, on_life=on_life)

    def close(self) -> None:
        """Cut everything, for good: requests that wait get UpstreamFailedError."""
        self._is_closed = True
        for link in (*self._idle, *self._busy):
            link.transport.abort()
        self._idle.clear()

    async def _run(
        self,
        link: _Link,
        request: bytes,
        *,
        reception: Reception,
        on_link: Callable[[asyncio.Transport], object] | None,
        on_life: Callable[[], object] | None,
    ) -> None:
        done: asyncio.Future[None] = self._loop.create_future()
        self._busy[link] = None
        try:
            if on_link is not None:
                on_link(link.transport)
            link.send(request, reception, done=done, on_life=on_life or self._on_life)
            await done
        finally:
            del self._busy[link]
            if link.can_be_kept and len(self._idle) < _MAX_IDLE_CONNECTIONS:
                link.idle_since = self._loop.time()
                link.used = True
                self._idle.append(link)
            else:
                link.transport.abort()

    def _take(self) -> _Link | None:
        oldest = self._loop.time() - _MAX_IDLE_SECONDS
        while self._idle:
            link = self._idle.pop()
            if link.idle_since > oldest and not link.transport.is_closing():
                return link
            link.transport.abort()
        return None

    async def _connect(self, *, was_sent: bool) -> _Link:
        try:
            async with timeout(_CONNECT_TIMEOUT):
                return await self._open()
        except (OSError, asyncio.TimeoutError) as error:
            raise UpstreamFailedError(f"cannot connect: {error}", was_sent=was_sent) from None

    async def _open(self) -> _Link:
        address = self._address
        if address.is_unix:
            _, link = await self._loop.create_unix_connection(_Link, address.host)
            return link
        if address.scheme == "https" and self._tls is None:
            self._tls = ssl.create_default_context()
        _, link = await self._loop.create_connection(_Link, address.host, address.port, ssl=self._tls)
        return link
