"""One client's connection: llhttp reads the requests, one is answered at a time, answers are written as they come."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Protocol, cast

from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.http.exchange import HttpExchange
from llcuda.gateway.http.request_reader import RequestReader

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from llcuda.gateway.config.configuration import Limits
    from llcuda.gateway.http.exchange import Exchange

__all__ = ["Connection", "Service"]

_WRITE_BUFFER_BYTES = 64 << 10
_NO_LINGER = struct.pack("ii", 1, 0)
_SMALL_HEAD_BYTES = 4 << 10
_MAX_HOLDING = 256
_DRAINED_BYTES = 256 << 10  # of a refused stranger's request: its answer arrives if no more comes
_STRANGERS_PAUSE = 0.05  # before the next of the requests that were sent at once: no usual client does so
_PROBE_SECONDS = 0.01
_TCP_CLOSE = 7  # of <netinet/tcp.h>
_LINGER_SECONDS = 0.5  # for a refusal to arrive before the rest of a request that nobody reads resets the connection


class Service(Protocol):
    """What a connection needs of the gateway."""

    limits: Limits
    draining: bool
    connections: set[Connection]
    holding: dict[Connection, None]
    """Those without a key that are sending a large head, or do not take what they were sent; the oldest first."""
    buffer: memoryview
    """What has come is read into it, and out of it at once; so all can use one."""

    def check_head(self, exchange: Exchange) -> None:
        """Raise RefusedError for a request that is not worth its body."""

    def handle(self, exchange: Exchange) -> Coroutine[None, None, None]:
        """Answer, whatever happens."""

    def refuse(self, exchange: Exchange, error: RefusedError) -> None:
        """Answer with an error, and count it."""

    def note_slow_reader(self) -> None:
        """Count a client that was cut because it took nothing of what it was sent."""


class Connection(asyncio.BufferedProtocol):
    """One client.

    =========  =====================================  =======================================================
    state      it means                               it becomes
    =========  =====================================  =======================================================
    idle       no request has begun                   head, by a first byte
    head       a request's head is being read         body; refused
    body       its body is being read                 busy; refused
    busy       it is being answered                   idle, or closing
    refused    the rest of the request is thrown away closing
    closing    what was written is being taken        closed, after a while in any case
    =========  =====================================  =======================================================

    Requests that come while one is answered, or while its answer is not taken, wait, and nothing more is read then.

    A client that ends its side has gone, or waits for the answer all the same: TCP does not tell which, before
    something is sent. Where nothing of the answer has been, it is sent ``100 Continue``, which means nothing: who has
    gone resets the connection then, and who waits passes over it (RFC 9110, 15.2). Clients of HTTP/1.0 and of TLS, and
    those whose answer has begun, are taken for gone at once.

    A client is a stranger until it has shown a key that is right, or asked for something that takes one where there
    are none. Little is held for strangers, and they are the first to go if there are too many connections.
    """

    __slots__ = (
        "_drained_bytes", "_exchange", "_is_known", "_loop", "_paused_since", "_reader", "_service", "_since", "_state",
        "_task", "_transport", "_waiting",
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
        self._is_known = False
        self._drained_bytes = 0

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self._transport = transport = cast("asyncio.Transport", transport)
        transport.set_write_buffer_limits(high=0)
        connected = transport.get_extra_info("socket")
        if connected is not None and connected.family != socket.AF_UNIX:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # Without it the kernel takes 2.6 MB for a client that reads nothing.
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _WRITE_BUFFER_BYTES)
        self._service.connections.add(self)

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Say where to read to."""
        return self._service.buffer if self._is_known else self._service.buffer[:_SMALL_HEAD_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        """Read requests."""
        if self._state == "idle":
            self._enter("head")
        self._reader.feed(bytes(self._service.buffer[:nbytes]))
        if self._reader.has_unread:
            self._transport.pause_reading()
        if self._state == "refused" and not self._is_known:
            self._drained_bytes += nbytes
            if self._drained_bytes > _DRAINED_BYTES:
                self._transport.pause_reading()
        self._note_held()

    def eof_received(self) -> bool:
        """Find out whether a client that will say no more still waits for its answer."""
        exchange = self._exchange
        if exchange is None or exchange.started or not self._can_probe(exchange):
            return False
        exchange.keep_alive = False
        self._loop.call_later(_PROBE_SECONDS, self._probe, exchange, _PROBE_SECONDS)
        return True

    def connection_lost(self, _error: Exception | None) -> None:
        """Give up what is being answered: nobody waits for it."""
        self._service.connections.discard(self)
        self._service.holding.pop(self, None)
        self._reader.close()
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        """Stop reading from the worker: the client does not take what it is sent."""
        self._paused_since = self._loop.time()
        if self._exchange is not None:
            self._exchange.pause()
        self._note_held()

    def resume_writing(self) -> None:
        """Go on."""
        self._paused_since = 0.0
        self._note_held()
        if self._exchange is not None:
            self._exchange.resume()
        elif self._state == "busy":
            self._go_on()
        else:
            self._read_on()

    # The reader's side.

    @property
    def limits(self) -> Limits:
        """The bounds of what is read."""
        return self._service.limits

    @property
    def has_room(self) -> bool:
        """Whether more may be read: none waits, and the client takes what it is sent."""
        return not self._waiting and not self._paused_since

    def begin_request(self) -> Exchange:
        """Return what a request that begins is kept in."""
        if self._state == "idle":
            self._enter("head")
        return HttpExchange(self)

    def take_head(self, exchange: Exchange) -> None:
        """Let the gateway look at a head, and a client go on that waits for leave to."""
        self._service.check_head(exchange)
        if exchange.caller is not None and not self._is_known:
            self._is_known = True
            self._transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        if self._state == "head":
            self._enter("body")
        if exchange.headers.get("expect", "").lower() == "100-continue" and exchange.has_body:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def take_request(self, exchange: Exchange) -> None:
        """Answer a request, or let it wait for the one before."""
        if self._exchange is None and not self._paused_since:
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
        exchange = reading or HttpExchange(self)
        exchange.keep_alive = False
        self._service.refuse(exchange, error)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._loop.call_later(_LINGER_SECONDS, self._close)

    # The exchange's side.

    @property
    def is_gone(self) -> bool:
        """Whether the client has left."""
        return self._transport.is_closing()

    @property
    def is_last(self) -> bool:
        """Whether the gateway ends, and nothing more is read."""
        return self._service.draining

    def write(self, data: bytes) -> None:
        """Send bytes."""
        self._transport.write(data)

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

    @property
    def rank(self) -> tuple[bool, float] | None:
        """Which goes first if there are too many: the lowest, strangers before others; None for who is to stay."""
        if self._transport.is_closing() or (self._is_known and self._state != "idle"):
            return None
        return self._is_known, self._since

    def close(self) -> None:
        """Close a connection that has no request, or let the one that is read or answered be the last."""
        if self._exchange is not None:
            self._exchange.keep_alive = False
        elif self._reader.exchange is None:
            self._close()

    def give_up(self) -> None:
        """End what is being answered, telling the client so."""
        if self._exchange is not None and self._task is not None:
            self._exchange.is_late = True
            self._task.cancel()
        else:
            self._close()

    def abort(self) -> None:
        """Cut the connection."""
        self._transport.abort()

    def check_time(self, now: float) -> None:
        """End what takes too long; called once a second."""
        limits = self.limits
        waited = now - self._since
        if self._paused_since and now - self._paused_since > limits.write_timeout:
            self._service.note_slow_reader()
            self.cut()
        elif self._state == "closing" and waited > limits.write_timeout:
            self.cut()
        elif self._state == "idle" and waited > limits.idle_timeout:
            self._close()
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

    def _can_probe(self, exchange: Exchange) -> bool:
        connected, tls = (self._transport.get_extra_info(name) for name in ("socket", "ssl_object"))
        return exchange.is_newest and tls is None and connected is not None and connected.family != socket.AF_UNIX

    def _probe(self, exchange: Exchange, waited: float) -> None:
        """Send what is passed over, and look, ever less often, whether it was refused: nothing is read any more."""
        if self._exchange is not exchange or exchange.started or self._transport.is_closing():
            return
        if waited == _PROBE_SECONDS:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        connected = self._transport.get_extra_info("socket")
        if connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE:
            self._transport.abort()
        else:
            self._loop.call_later(waited, self._probe, exchange, min(2 * waited, 1.0))

    def _note_held(self) -> None:
        """Let the one that has held most for longest go, of the strangers, where too many hold much."""
        holding = self._service.holding
        if self._is_known or not (self._paused_since or self._reader.held_bytes > _SMALL_HEAD_BYTES):
            holding.pop(self, None)
            return
        holding.setdefault(self)
        if len(holding) > _MAX_HOLDING:
            first = next(iter(holding))
            del holding[first]
            first.cut()

    def _close(self) -> None:
        self._enter("closing")
        self._transport.close()

    def cut(self) -> None:
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
            self._close()
        elif not self._paused_since:
            if self._is_known or not (self._waiting or self._reader.has_unread):
                self._go_on()
            else:
                self._loop.call_later(_STRANGERS_PAUSE, self._go_on)

    def _go_on(self) -> None:
        """Take the next request."""
        if self._exchange is not None or self._paused_since or self._transport.is_closing():
            return
        if self._waiting:
            self._begin(self._waiting.popleft())
        else:
            self._enter("head" if self._reader.exchange is not None else "idle")
        self._read_on()

    def _read_on(self) -> None:
        self._reader.read_on()
        if self.has_room and not self._reader.has_unread:
            self._transport.resume_reading()

    def _enter(self, state: str) -> None:
        self._state = state
        self._since = self._loop.time()
