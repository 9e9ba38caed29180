"""One client's connection: llhttp reads the requests, one is answered at a time, answers are written as they come."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import TYPE_CHECKING, Protocol

import httptools

from llcuda.gateway.exchange import Exchange, Timeouts
from llcuda.gateway.refusals import RefusedError

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from llcuda.gateway.config import Limits

__all__ = ["Connection", "Service"]

_WRITE_BUFFER_BYTES = 64 << 10
_LINGER_SECONDS = 0.5  # for a refusal to arrive before the rest of a request that nobody reads resets the connection

# What a second one of would leave open which of the two is meant.
_ONCE = frozenset({
    "authorization", "content-encoding", "content-length", "content-type", "expect", "host", "origin",
    "transfer-encoding", "x-api-key",
})  # fmt: skip


class Service(Protocol):
    """What a connection needs of the gateway."""

    limits: Limits
    timeouts: Timeouts
    draining: bool
    connections: set[Connection]

    def check_head(self, exchange: Exchange) -> None:
        """Raise RefusedError for a request that is not worth its body."""

    def handle(self, exchange: Exchange) -> Coroutine[None, None, None]:
        """Answer, whatever happens."""

    def refuse(self, exchange: Exchange, error: RefusedError) -> None:
        """Answer with an error, and count it."""


class Connection(asyncio.Protocol):
    """One client.

    =========  =====================================  =======================================================
    state      it means                               it becomes
    =========  =====================================  =======================================================
    idle       no request has begun                   head, by a first byte
    head       a request's head is being read         body; refused
    body       its body is being read                 busy; refused
    busy       it is being answered                   idle, or closed
    refused    the rest of the request is thrown away closed
    =========  =====================================  =======================================================

    Requests that come while one is answered wait, and nothing more is read then.
    """

    __slots__ = (
        "_exchange", "_head_bytes", "_loop", "_parser", "_paused_since", "_reading", "_service", "_since", "_state",
        "_task", "_transport", "_upgrading", "_url", "_waiting",
    )  # fmt: skip

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for the client."""
        self._service = service
        self._loop = loop
        self._parser = httptools.HttpRequestParser(self)
        self._state = "idle"
        self._since = loop.time()
        self._head_bytes = 0
        self._url = b""
        self._upgrading: Exchange | None = None
        self._reading: Exchange | None = None
        self._exchange: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiting: deque[Exchange] = deque()
        self._paused_since = 0.0

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or say at once that there are too many."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what asyncio's servers give
        self._transport = transport
        transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        connected = transport.get_extra_info("socket")
        if connected is not None and connected.family != socket.AF_UNIX:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connections = self._service.connections
        connections.add(self)
        if len(connections) > self._service.limits.max_connections:
            self._refuse(RefusedError(503, "there are too many connections", code="too_many_connections", close=True))

    def data_received(self, data: bytes) -> None:
        """Read requests."""
        if self._state == "refused":
            return
        if self._state == "idle":
            self._enter("head")
        if self._reading is None or not self._reading.head_complete:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if self._state != "refused":
                self._refuse(RefusedError(400, f"this is not HTTP: {error}", code="bad_request", close=True))
        reading = self._reading
        in_head = reading is not None and not reading.head_complete
        if in_head and self._head_bytes > self._service.limits.max_header_bytes and self._state != "refused":
            self._refuse(self._head_too_large())

    def eof_received(self) -> bool:
        """Take a client that will say no more for one that has gone."""
        return False

    def connection_lost(self, _error: Exception | None) -> None:
        """Give up what is being answered: nobody waits for it."""
        self._service.connections.discard(self)
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        """Stop reading from the worker: the client does not take what it is sent."""
        self._paused_since = self._loop.time()
        if self._exchange is not None:
            self._exchange.pause()

    def resume_writing(self) -> None:
        """Go on."""
        self._paused_since = 0.0
        if self._exchange is not None:
            self._exchange.resume()

    # The parser's side. An exception in here would come out as a parser's error, so none is raised.

    def on_message_begin(self) -> None:
        """Begin a request."""
        if self._upgrading is not None or self._state == "refused":
            return
        if self._state == "idle":
            self._enter("head")
        self._url = b""
        self._reading = Exchange(self)

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; those after the body mean nothing here."""
        exchange = self._reading
        if exchange is None or self._state not in {"head", "busy"} or exchange.head_complete:
            return
        headers = exchange.headers
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1")
        if key not in headers:
            headers[key] = text
        elif key in _ONCE:
            self._refuse(RefusedError(400, f"there is more than one {key} header", code="bad_request", close=True))
        else:
            headers[key] = f"{headers[key]}, {text}"
        limits = self._service.limits
        exchange.header_count += 1
        exchange.header_bytes += len(name) + len(value)
        if exchange.header_count > limits.max_headers or exchange.header_bytes > limits.max_header_bytes:
            self._refuse(self._head_too_large())

    def on_headers_complete(self) -> None:
        """Decide whether the body is worth reading."""
        exchange = self._reading
        if exchange is None or self._state == "refused" or self._upgrading is not None:
            return
        parser = self._parser
        self._head_bytes = 0
        exchange.read_head(
            parser.get_method().decode("latin-1"), self._url.decode("latin-1"), parser.get_http_version()
        )
        try:
            exchange.check_head()
            if exchange.content_length > self._service.limits.max_body_bytes:
                raise self._too_large()
            self._service.check_head(exchange)
        except RefusedError as error:
            error.close = error.close or exchange.has_body
            if error.close:
                self._refuse(error)
            else:
                exchange.refusal = error
            return
        if parser.should_upgrade():
            self._upgrading = exchange
            exchange.keep_alive = False
        if self._state == "head":
            self._enter("body")
        if exchange.headers.get("expect", "").lower() == "100-continue" and exchange.has_body:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        """Take a piece of the body."""
        exchange = self._reading
        if exchange is None or self._state == "refused":
            return
        exchange.add_body(data)
        if exchange.body_bytes > self._service.limits.max_body_bytes:
            self._refuse(self._too_large())

    def on_message_complete(self) -> None:
        """Answer the request, or let it wait for the one before."""
        if self._upgrading is not None and self._reading is self._upgrading and self._parser.should_upgrade():
            return  # its body comes yet
        self._upgrading = None
        exchange, self._reading = self._reading, None
        self._head_bytes = 0
        if exchange is None or self._state == "refused":
            return
        exchange.keep_alive = exchange.keep_alive and self._parser.should_keep_alive()
        if self._exchange is None:
            self._begin(exchange)
        else:
            self._waiting.append(exchange)
            self._transport.pause_reading()

    # The exchange's side.

    @property
    def transport(self) -> asyncio.Transport:
        """Where answers are written."""
        return self._transport

    @property
    def service(self) -> Service:
        """The gateway."""
        return self._service

    @property
    def is_paused(self) -> bool:
        """Whether the client does not take what it is sent."""
        return bool(self._paused_since)

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered, or read."""
        return self._exchange is not None or self._reading is not None

    def close(self) -> None:
        """Close a connection that has no request, or let the one that is answered be the last."""
        if self._exchange is not None:
            self._exchange.keep_alive = False
        else:
            self._transport.close()

    def give_up(self) -> None:
        """End what is being answered, telling the client so."""
        if self._exchange is not None and self._task is not None:
            self._exchange.is_late = True
            self._task.cancel()
        else:
            self._transport.close()

    def abort(self) -> None:
        """Cut the connection."""
        self._transport.abort()

    def check_time(self, now: float) -> None:
        """End what takes too long; called once a second."""
        limits, timeouts = self._service.limits, self._service.timeouts
        waited = now - self._since
        if self._paused_since and now - self._paused_since > limits.write_timeout:
            timeouts.slow_readers += 1
            self._transport.abort()
        elif self._state == "idle" and waited > limits.idle_timeout:
            self._transport.close()
        elif self._state == "head" and waited > limits.header_timeout:
            self._refuse(RefusedError(408, "the head of the request did not come", code="too_slow", close=True))
        elif self._state == "body" and waited > limits.body_timeout:
            self._refuse(RefusedError(408, "the body of the request did not come", code="too_slow", close=True))
        elif self._state == "busy" and waited > limits.request_timeout and self._exchange and self._task:
            self._exchange.is_late = True
            self._task.cancel()

    def _decline_upgrade(self, rest: bytes) -> None:
        """Read the body of a request that asks whether we would rather speak HTTP/2 (Java's client always does).

        llhttp takes what follows such a head for the other protocol. It is answered as any other, and is the last.
        """
        exchange = self._upgrading
        if exchange is None or exchange.method == "CONNECT":
            if self._state != "refused":
                self._refuse(RefusedError(400, "this is no proxy", code="bad_request", close=True))
            return
        self._parser = httptools.HttpRequestParser(self)
        chunked = "transfer-encoding" in exchange.headers
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % exchange.content_length
        self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % framing)
        if rest:
            self._parser.feed_data(rest)

    def _begin(self, exchange: Exchange) -> None:
        self._enter("busy")
        self._exchange = exchange
        if exchange.refusal is not None:
            self._service.refuse(exchange, exchange.refusal)
            self._end()
            return
        task = self._loop.create_task(self._service.handle(exchange))
        self._task = task
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled():
            task.result()
        self._end()

    def _end(self) -> None:
        exchange, self._exchange = self._exchange, None
        if self._transport.is_closing():
            return
        if exchange is None or not exchange.finished:
            self._transport.abort()
        elif not exchange.keep_alive or self._service.draining:
            self._transport.close()
        elif self._waiting:
            self._begin(self._waiting.popleft())
        else:
            self._enter("head" if self._reading is not None else "idle")
            self._transport.resume_reading()

    def _enter(self, state: str) -> None:
        self._state = state
        self._since = self._loop.time()

    def _head_too_large(self) -> RefusedError:
        limits = self._service.limits
        most = f"{limits.max_header_bytes} bytes or {limits.max_headers} headers"
        message = f"the head of the request has more than {most}"
        return RefusedError(431, message, code="head_too_large", close=True)

    def _too_large(self) -> RefusedError:
        limit = self._service.limits.max_body_bytes
        return RefusedError(413, f"the body is larger than {limit} bytes", code="body_too_large", close=True)

    def _refuse(self, error: RefusedError) -> None:
        """Answer what cannot be read to its end, and close."""
        busy = self._exchange is not None
        self._enter("refused")
        self._waiting.clear()
        if busy:
            # The answer that is being written comes first; what follows it was never a request.
            self.close()
            return
        exchange = self._reading or Exchange(self)
        exchange.keep_alive = False
        self._service.refuse(exchange, error)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._loop.call_later(_LINGER_SECONDS, self._transport.close)
