"""Connections to one server: kept alive, one request on each at a time, answers handed on as they come.

This is not ``transport.aio``, whose streams wake a task for each token: that is 2 callbacks of the loop and 43 calls in
Python for one, here 1 and 16. llhttp reads a burst of 16 tokens in 6 us; the transport's own reader, which needs no
extra, takes 23.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, cast

import httptools

from llcuda.fleet.refusals import RefusedError
from llcuda.fleet.timeouts import timeout
from llcuda.transport.http1 import build_head, build_request

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from llcuda.transport.address import Address

__all__ = ["AnswerReader", "PlainAnswer", "Upstream", "UpstreamFailedError"]

# llama-server closes a connection after five idle seconds, and after its hundredth request, which it says.
_MAX_IDLE_SECONDS = 4.0
_MAX_IDLE_CONNECTIONS = 256
_CONNECT_TIMEOUT = 2.0
_MAX_PLAIN_BYTES = 64 << 20
_MAX_LOOSE_BYTES = 64 << 10
_FIRST, _FIRST_FINAL, _OK = 100, 200, 200


class UpstreamFailedError(Exception):
    """A worker did not answer, or broke off; it stays within the gateway.

    ``was_sent`` says whether the worker may have read the request.
    """

    def __init__(self, reason: str, *, was_sent: bool = True) -> None:
        self.was_sent = was_sent
        super().__init__(reason)


class AnswerReader:
    """Reads one answer: llhttp does, and what it lets pass is checked and bounded here.

    ``status`` is 0 until the head is whole, ``complete`` is true at the exact end. The methods that begin with ``on_``
    are llhttp's to call; what they raise comes out as a parser's error.
    """

    __slots__ = ("_body", "_loose_bytes", "_parser", "complete", "headers", "keep_alive", "started", "status")

    def __init__(self) -> None:
        # It knows this reader: it is let go of in the end, or both would be kept until garbage is looked for.
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._loose_bytes = 0
        self.status = 0
        self.headers: dict[str, str] = {}
        self.started = self.complete = self.keep_alive = False

    def feed(self, data: bytes) -> bytes:
        """Take what was received, and return the part of it that is body. Raises UpstreamFailedError."""
        self.started = True
        self._loose_bytes += len(data)
        try:
            if self._parser is None:
                self.keep_alive = False
            else:
                self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.keep_alive = False
            if not self.complete:
                self._parser = None
                raise UpstreamFailedError(f"the answer is not HTTP: {error.__context__ or error}") from None
        # llhttp keeps what it was given of a header, and counts neither that nor what frames chunks.
        if self._loose_bytes > _MAX_LOOSE_BYTES:
            raise UpstreamFailedError(f"the answer's head, or what frames it, is longer than {_MAX_LOOSE_BYTES} bytes")
        if self.complete:
            self._parser = None
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        return body

    def close(self) -> None:
        """Take note that the connection has ended. Raises UpstreamFailedError if the answer has not."""
        self._parser = None
        if not self.status or not self.headers.keys().isdisjoint({"content-length", "transfer-encoding"}):
            what = "in the middle of its answer" if self.started else "without an answer"
            raise UpstreamFailedError(f"the server closed the connection {what}")
        self.complete = True

    def on_message_begin(self) -> None:
        """Notice what follows the end."""
        self.keep_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; those after the body mean nothing here."""
        if not self.status:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1").rstrip(" \t")
            self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        """Check the head; an interim one says nothing."""
        assert self._parser is not None  # noqa: S101 - it calls this
        if self.complete:
            return
        status, version = self._parser.get_status_code(), self._parser.get_http_version()
        coding = self.headers.get("transfer-encoding", "chunked")
        if version not in {"1.0", "1.1"} or status < _FIRST or self._parser.should_upgrade():
            raise UpstreamFailedError(f"HTTP/{version} with status {status}")
        if coding.lower() != "chunked":
            raise UpstreamFailedError(f"transfer-encoding {coding}, which was not asked for")
        if status < _FIRST_FINAL:
            self.headers.clear()
        else:
            self.status = status

    def on_body(self, data: bytes) -> None:
        """Take a piece of the body."""
        if not self.complete:
            self._loose_bytes = 0
            self._body.append(data)

    def on_message_complete(self) -> None:
        """Note the end."""
        if self.status and not self.complete and self._parser is not None:
            self.complete = True
            # llhttp would go on with HTTP/1.0 too, if the end is known.
            self.keep_alive = self._parser.should_keep_alive() and self._parser.get_http_version() == "1.1"


class PlainAnswer:
    """An answer that comes whole, an error among them. A RefusedError that is raised here ends the request."""

    def __init__(self, on_life: Callable[[], object] | None = None) -> None:
        self.on_life = on_life
        """Called whenever some of it comes."""
        self.status = 0
        self.content_type = "application/json"
        self.is_stream = False
        """Whether the worker streams: an error it answers whole."""
        self.body = b""
        """All of it, once it has come."""
        self._pieces: list[bytes] = []
        self._bytes = 0

    def on_link(self, transport: asyncio.Transport) -> None:
        """Take the connection that it comes by, for who wants to stop and go on reading."""

    def on_head(self, status: int, headers: dict[str, str]) -> None:
        """Take status and headers."""
        self.status = status
        self.content_type = headers.get("content-type", self.content_type)
        self.is_stream = status == _OK and self.content_type.startswith("text/event-stream")

    def on_body(self, data: bytes, *, is_last: bool) -> None:
        """Take a piece."""
        self._bound(data)
        self._pieces.append(data)
        if is_last:
            self.body, self._pieces = b"".join(self._pieces), []

    def _bound(self, data: bytes) -> None:
        """Count what is kept. Raises RefusedError if that is too much."""
        self._bytes += len(data)
        if self._bytes > _MAX_PLAIN_BYTES:
            raise RefusedError(502, f"the answer is larger than {_MAX_PLAIN_BYTES} bytes", code="answer_too_large")


class _Link(asyncio.Protocol):
    """One connection to a server."""

    __slots__ = ("_done", "_on_life", "_reader", "_reception", "idle_since", "transport")

    def __init__(self) -> None:
        self._on_life: Callable[[], object]
        self._reception: PlainAnswer | None = None
        self._reader: AnswerReader | None = None
        self._done: asyncio.Future[None] | None = None
        self.transport: asyncio.Transport
        self.idle_since = 0.0

    @property
    def is_untouched(self) -> bool:
        """Whether nothing of an answer has come."""
        return self._reader is None or not self._reader.started

    @property
    def can_be_kept(self) -> bool:
        """Whether it can carry another request."""
        reader = self._reader
        return reader is not None and reader.complete and reader.keep_alive and not self.transport.is_closing()

    def send(self, request: bytes, reception: PlainAnswer, *, on_life: Callable[[], object]) -> asyncio.Future[None]:
        """Send a request, and return what is done at the end of its answer."""
        self._reception, self._reader, self._on_life = reception, AnswerReader(), on_life
        self._done = done = asyncio.get_running_loop().create_future()
        reception.on_link(self.transport)
        if self.transport.is_closing():
            # It was lost before anybody listened, and nobody will say so again.
            self._fail(UpstreamFailedError("the connection was closed"))
        else:
            self.transport.write(request)
        return done

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        reader, reception = self._reader, self._reception
        if reader is None or reception is None:
            self.transport.abort()
            return
        self._on_life()
        had_head = reader.status
        try:
            body = reader.feed(data)
            if not had_head and reader.status:
                reception.on_head(reader.status, reader.headers)
            if reader.complete:
                self._end(reception, body)
            elif body:
                reception.on_body(body, is_last=False)
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

    def _end(self, reception: PlainAnswer, body: bytes) -> None:
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
    """The connections to one server."""

    def __init__(
        self,
        address: Address,
        *,
        api_key: str | None,
        on_life: Callable[[], object],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Open nothing yet; ``on_life`` is called when something comes that has no such call of its own."""
        self._address = address
        self._tls = tls
        self._head = build_head(address.authority, user_agent="llcuda", api_key=api_key)
        self._on_life = on_life
        self._idle: deque[_Link] = deque()
        self._busy: dict[_Link, None] = {}  # the oldest first: so they are cut, and so their requests are tried again
        self._is_closed = False
        self._loop = asyncio.get_running_loop()

    async def exchange(self, method: str, path: str, reception: PlainAnswer, *, body: bytes | None = None) -> None:
        """Send a request, hand its answer to ``reception``, and return at its end.

        A request that got not one byte on a connection that was used before is sent once more on a new one: the server
        may close an idle connection at any moment. Raises UpstreamFailedError, and the reception's RefusedError.
        Whoever is cancelled here cuts the connection, and the server stops generating.
        """
        request = build_request(method, self._address.base + path, head=self._head, body=body)
        link = self._take()
        was_sent = False
        if link is not None:
            try:
                return await self._run(link, request, reception)
            except UpstreamFailedError:
                if self._is_closed or not link.is_untouched:
                    raise
                was_sent = True
        return await self._run(await self._connect(was_sent=was_sent), request, reception)

    def close(self) -> None:
        """Cut everything, for good: requests that wait get UpstreamFailedError."""
        self._is_closed = True
        for link in (*self._idle, *self._busy):
            link.transport.abort()
        self._idle.clear()

    async def _run(self, link: _Link, request: bytes, reception: PlainAnswer) -> None:
        self._busy[link] = None
        try:
            await link.send(request, reception, on_life=reception.on_life or self._on_life)
        finally:
            del self._busy[link]
            if link.can_be_kept and len(self._idle) < _MAX_IDLE_CONNECTIONS:
                link.idle_since = self._loop.time()
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
        address, loop = self._address, self._loop
        try:
            async with timeout(_CONNECT_TIMEOUT):
                if address.is_unix:
                    return (await loop.create_unix_connection(_Link, address.host))[1]
                return (await loop.create_connection(_Link, address.host, address.port, ssl=self._tls))[1]
        except (OSError, asyncio.TimeoutError) as error:
            raise UpstreamFailedError(f"cannot connect: {error}", was_sent=was_sent) from None
