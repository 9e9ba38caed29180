"""One client's connection: llhttp reads the requests, one is answered at a time, answers are written as they come."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Protocol

from llcuda.gateway.exchange import Exchange
from llcuda.gateway.refusals import RefusedError
from llcuda.gateway.requests import RequestReader

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from llcuda.gateway.config import Limits

__all__ = ["Connection", "Service"]

_WRITE_BUFFER_BYTES = 64 << 10
_NO_LINGER = struct.pack("ii", 1, 0)
_LINGER_SECONDS = 0.5  # for a refusal to arrive before the rest of a request that nobody reads resets the connection


class Service(Protocol):
    """What a connection needs of the gateway."""

    limits: Limits
    draining: bool
    connections: set[Connection]

    def check_head(self, exchange: Exchange) -> None:
        """Raise RefusedError for a request that is not worth its body."""

    def handle(self, exchange: Exchange) -> Coroutine[None, None, None]:
        """Answer, whatever happens."""

    def refuse(self, exchange: Exchange, error: RefusedError) -> None:
        """Answer with an error, and count it."""

    def note_slow_reader(self) -> None:
        """Count a client that was cut because it took nothing of what it was sent."""


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
        "_exchange", "_loop", "_paused_since", "_reader", "_service", "_since", "_state", "_task", "_transport",
        "_waiting",
    )  # fmt: skip

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for the client."""
        self._service = service
        self._loop = loop
        self._reader = RequestReader(self)
        self._state = "idle"
        self._since = loop.time()
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
            # Without it the kernel takes 2.6 MB for a client that reads nothing.
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _WRITE_BUFFER_BYTES)
        connections = self._service.connections
        connections.add(self)
        if len(connections) > self.limits.max_connections:
            self.refuse(RefusedError(503, "there are too many connections", code="too_many_connections", close=True))

    def data_received(self, data: bytes) -> None:
        """Read requests."""
        if self._state == "idle":
            self._enter("head")
        self._reader.feed(data)

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

    # The reader's side.

    @property
    def limits(self) -> Limits:
        """The bounds of what is read."""
        return self._service.limits

    def begin_request(self) -> Exchange:
        """Return what a request that begins is kept in."""
        if self._state == "idle":
            self._enter("head")
        return Exchange(self)

    def take_head(self, exchange: Exchange) -> None:
        """Let the gateway look at a head, and a client go on that waits for leave to."""
        self._service.check_head(exchange)
        if self._state == "head":
            self._enter("body")
        if exchange.headers.get("expect", "").lower() == "100-continue" and exchange.has_body:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def take_request(self, exchange: Exchange) -> None:
        """Answer a request, or let it wait for the one before."""
        if self._exchange is None:
            self._begin(exchange)
        else:
            self._waiting.append(exchange)
            self._transport.pause_reading()

    def refuse(self, error: RefusedError) -> None:
        """Answer what cannot be read to its end, and close."""
        reading = self._reader.exchange
        self._reader.close()
        self._enter("refused")
        self._waiting.clear()
        if self._exchange is not None:
            # The answer that is being written comes first; what follows it was never a request.
            self._exchange.keep_alive = False
            return
        exchange = reading or Exchange(self)
        exchange.keep_alive = False
        self._service.refuse(exchange, error)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._loop.call_later(_LINGER_SECONDS, self._transport.close)

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
        return self._exchange is not None or self._reader.exchange is not None

    @property
    def is_lost(self) -> bool:
        """Whether it has ended, and is counted still."""
        connected = self._transport.get_extra_info("socket")
        return connected is not None and connected.fileno() < 0

    def close(self) -> None:
        """Close a connection that has no request, or let the one that is read or answered be the last."""
        if self._exchange is not None:
            self._exchange.keep_alive = False
        elif self._reader.exchange is None:
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
        limits = self.limits
        waited = now - self._since
        if self._paused_since and now - self._paused_since > limits.write_timeout:
            self._service.note_slow_reader()
            self._reset()
        elif self._state == "idle" and waited > limits.idle_timeout:
            self._transport.close()
        elif self._state == "head" and waited > limits.header_timeout:
            self.refuse(RefusedError(408, "the head of the request did not come", code="too_slow", close=True))
        elif self._state == "body" and waited > limits.body_timeout:
            self.refuse(RefusedError(408, "the body of the request did not come", code="too_slow", close=True))
        elif self._state == "busy" and waited > limits.request_timeout:
            self._end_late()

    def _end_late(self) -> None:
        if self._exchange is not None and self._task is not None and not self._exchange.is_untimed:
            self._exchange.is_late = True
            self._task.cancel()

    def _reset(self) -> None:
        """Cut the connection with all that was not taken: the kernel would keep it, and offer it for minutes."""
        connected = self._transport.get_extra_info("socket")
        if connected is not None:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._transport.abort()

    def _begin(self, exchange: Exchange) -> None:
        self._enter("busy")
        self._exchange = exchange
        if exchange.refusal is not None:
            self._service.refuse(exchange, exchange.refusal)
            self._end()
            return
        self._task = self._loop.create_task(self._service.handle(exchange))
        # Not at the end of a coroutine: one that is cancelled before it has begun never comes there.
        self._task.add_done_callback(self._end)

    def _end(self, _task: object = None) -> None:
        exchange, self._exchange, self._task = self._exchange, None, None
        if self._transport.is_closing():
            return
        if exchange is None or not exchange.finished:
            self._transport.abort()
        elif not exchange.keep_alive or self._service.draining:
            self._transport.close()
        elif self._waiting:
            self._begin(self._waiting.popleft())
        else:
            self._enter("head" if self._reader.exchange is not None else "idle")
            self._transport.resume_reading()

    def _enter(self, state: str) -> None:
        self._state = state
        self._since = self._loop.time()
