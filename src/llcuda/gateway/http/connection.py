"""One client's connection: requests are read, one is answered at a time, answers are written as they come."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from enum import Enum
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol, cast

from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.http.exchange import Exchange
from llcuda.gateway.http.request_reader import Bounded, RequestReader

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

__all__ = ["Connection", "HttpExchange", "Service"]

_WRITE_BUFFER_BYTES = 64 << 10
_NO_LINGER = struct.pack("ii", 1, 0)
_SMALL_HEAD_BYTES = 4 << 10
_MAX_HOLDING = 256
_DRAINED_BYTES = 256 << 10  # of a refused stranger's request: its answer arrives if no more comes
_STRANGERS_PAUSE = 0.05  # before the next of the requests that were sent at once: no usual client does so
_PROBE_SECONDS = 0.01
_TCP_CLOSE = 7  # of <netinet/tcp.h>
_LINGER_SECONDS = 0.5  # for a refusal to arrive before the rest of a request that nobody reads resets the connection

_NOT_MODIFIED = 304
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
# `nosniff`: an answer may hold whatever a model says, and a browser must not take it for a page.
_ALWAYS = "Server: llcuda\r\nX-Content-Type-Options: nosniff\r\n"

_State = Enum("_State", "IDLE HEAD BODY BUSY REFUSED CLOSING")


class Service(Bounded, Protocol):
    """What a connection needs of the gateway."""

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


class HttpExchange(Exchange):
    """One whose answer is written as HTTP/1 has it."""

    __slots__ = ("_client", "_held")

    def __init__(self, client: Connection) -> None:
        super().__init__()
        self._client = client
        self._held = b""

    def respond(
        self, status: int, body: bytes, *, content_type: str = "application/json", headers: Iterable[str] = ()
    ) -> None:
        """Write a whole answer; ``headers`` are lines without their ends."""
        self.status = status
        self.started = self.finished = True
        self._held = b""
        head = self._head(status, content_type, "\r\n".join((*headers, f"Content-Length: {len(body)}", "")))
        data = head if self.method == "HEAD" or status == _NOT_MODIFIED else head + body
        self.bytes_out += len(data)
        self._client.write(data)

    def start_stream(self, status: int, content_type: str) -> None:
        """Begin an answer that comes in pieces; nothing is sent before the first."""
        self.status = status
        # Proxies such as nginx would collect a stream before they pass it on.
        more = "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"
        self.keep_alive = self.keep_alive and self._chunked
        chunked = "Transfer-Encoding: chunked\r\n" if self._chunked else ""
        self._held = self._head(status, content_type, more + chunked)

    def start_file(self, content_type: str, *, length: int, headers: Iterable[str] = ()) -> None:
        """Begin an answer of so many bytes that comes in pieces; the connection ends with it, even if it is cut."""
        self.status = 200
        self.keep_alive = self._chunked = False
        self._held = self._head(200, content_type, "\r\n".join((*headers, f"Content-Length: {length}", "")))

    def write(self, data: bytes, *, is_last: bool = False) -> None:
        """Write a piece of a stream; the head goes with the first, the end with the last."""
        self.started = True
        head, self._held = self._held, b""
        piece = b"%x\r\n%b\r\n" % (len(data), data) if self._chunked and data else data
        end = b"0\r\n\r\n" if is_last and self._chunked else b""
        self.finished = is_last
        data = head if self.method == "HEAD" else head + piece + end
        self.bytes_out += len(data)
        self._client.write(data)

    @property
    def is_gone(self) -> bool:
        """Whether the client has gone."""
        return self._client.is_gone

    @property
    def is_slow(self) -> bool:
        """Whether the client does not take what it is sent."""
        return self._client.is_paused

    def _head(self, status: int, content_type: str, more: str) -> bytes:
        if self._client.is_last:
            self.keep_alive = False
        close = "" if self.keep_alive else "Connection: close\r\n"
        identity = f"X-Request-Id: {self.request_id}\r\n" if self.request_id else ""
        line = _STATUS_LINES[status]
        text = f"{line}Content-Type: {content_type}\r\n{_ALWAYS}{identity}{self.extra_headers}{close}{more}\r\n"
        return text.encode("latin-1")


class Connection(RequestReader, asyncio.BufferedProtocol):
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
    something is sent. If nothing of the answer has been, it is sent ``100 Continue``, which means nothing: who has
    gone resets the connection then, and who waits passes over it (RFC 9110, 15.2). Clients of HTTP/1.0 and of TLS, and
    those whose answer has begun, are taken for gone at once.

    A client is a stranger until it has shown a key that is right, or, if there are no keys, asked for what would take
    one. Little is held for strangers, and they are the first to go if there are too many connections.
    """

    __slots__ = (
        "_drained_bytes", "_exchange", "_is_known", "_loop", "_paused_since", "_service", "_since", "_state", "_task",
        "_transport", "_waiting", "write",
    )  # fmt: skip

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(service)
        self._service = service
        self._loop = loop
        self._state = _State.IDLE
        self._since = loop.time()
        self._exchange: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiting: deque[Exchange] = deque()
        self._paused_since = 0.0
        self._is_known = False
        self._drained_bytes = 0
        self.write: Callable[[bytes], None]
        """Send bytes to the client."""

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self._transport = transport = cast("asyncio.Transport", transport)
        self.write = transport.write
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
        if self._state is _State.IDLE:
            self._enter(_State.HEAD)
        self.read(bytes(self._service.buffer[:nbytes]))
        if self._unread:
            self._transport.pause_reading()
        if self._state is _State.REFUSED and not self._is_known:
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
        self.stop_reading()
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
        elif self._state is _State.BUSY:
            self._go_on()
        else:
            self._read_on()

    # The reader's side.

    @property
    def has_room(self) -> bool:
        """Whether more may be read: none waits, and the client takes what it is sent."""
        return not self._waiting and not self._paused_since

    def begin_request(self) -> Exchange:
        """Return what a request that begins is kept in."""
        if self._state is _State.IDLE:
            self._enter(_State.HEAD)
        return HttpExchange(self)

    def take_head(self, exchange: Exchange) -> None:
        """Let the gateway look at a head, and a client go on that waits for leave to."""
        self._service.check_head(exchange)
        if exchange.caller is not None and not self._is_known:
            self._is_known = True
            self._transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        if self._state is _State.HEAD:
            self._enter(_State.BODY)
        if exchange.headers.get("expect", "").lower() == "100-continue" and exchange.has_body:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def take_request(self, exchange: Exchange) -> None:
        """Answer a request, or let it wait for the one before."""
        if self._exchange is None and not self._paused_since:
            self._begin(exchange)
        else:
            self._waiting.append(exchange)
            self._transport.pause_reading()

    def refuse(self, error: RefusedError) -> None:
        """Answer what cannot be read to its end, and close."""
        reading = self.reading
        self.stop_reading()
        self._enter(_State.REFUSED)
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

    @property
    def is_paused(self) -> bool:
        """Whether the client does not take what it is sent."""
        return bool(self._paused_since)

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered, or read."""
        return self._exchange is not None or self.reading is not None

    @property
    def is_lost(self) -> bool:
        """Whether it has ended, and is counted still."""
        connected = self._transport.get_extra_info("socket")
        return connected is not None and connected.fileno() < 0

    @property
    def rank(self) -> tuple[bool, float] | None:
        """Which goes first if there are too many: the lowest, strangers before others; None for who is to stay."""
        if self._transport.is_closing() or (self._is_known and self._state is not _State.IDLE):
            return None
        return self._is_known, self._since

    def close(self) -> None:
        """Close a connection that has no request, or let the one that is read or answered be the last."""
        if self._exchange is not None:
            self._exchange.keep_alive = False
        elif self.reading is None:
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
        limits, exchange = self._service.limits, self._exchange
        waited = now - self._since
        if self._paused_since and now - self._paused_since > limits.write_timeout:
            self._service.note_slow_reader()
            self.cut()
        elif self._state is _State.CLOSING and waited > limits.write_timeout:
            self.cut()
        elif self._state is _State.IDLE and waited > limits.idle_timeout:
            self._close()
        elif self._state is _State.HEAD and waited > limits.header_timeout:
            self.refuse(RefusedError(408, "the head of the request did not come", code="too_slow", close=True))
        elif self._state is _State.BODY and waited > limits.body_timeout:
            self.refuse(RefusedError(408, "the body of the request did not come", code="too_slow", close=True))
        elif self._state is _State.BUSY and waited > limits.request_timeout and exchange and not exchange.is_untimed:
            self.give_up()

    def _can_probe(self, exchange: Exchange) -> bool:
        connected, tls = (self._transport.get_extra_info(name) for name in ("socket", "ssl_object"))
        return exchange.is_newest and tls is None and connected is not None and connected.family != socket.AF_UNIX

    def _probe(self, exchange: Exchange, waited: float) -> None:
        """Send what is passed over, and look, ever less often, whether it was refused: nothing is read any more."""
        if self._exchange is not exchange or exchange.started or self._transport.is_closing():
            return
        if waited == _PROBE_SECONDS:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        connected = self._transport.get_extra_info("socket")
        if connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE:
            self._transport.abort()
        else:
            self._loop.call_later(waited, self._probe, exchange, min(2 * waited, 1.0))

    def _note_held(self) -> None:
        """Let the one that has held most for longest go, of the strangers, if too many hold much."""
        holding = self._service.holding
        if self._is_known or not (self._paused_since or len(self._unread) + self._loose_bytes > _SMALL_HEAD_BYTES):
            holding.pop(self, None)
            return
        holding.setdefault(self)
        if len(holding) > _MAX_HOLDING:
            first = next(iter(holding))
            del holding[first]
            first.cut()

    def _close(self) -> None:
        self._enter(_State.CLOSING)
        self._transport.close()

    def cut(self) -> None:
        """Cut the connection with all that was not taken: the kernel would keep it, and offer it for minutes."""
        connected = self._transport.get_extra_info("socket")
        if connected is not None:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._transport.abort()

    def _begin(self, exchange: Exchange) -> None:
        self._enter(_State.BUSY)
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
            if self._is_known or not (self._waiting or self._unread):
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
            self._enter(_State.HEAD if self.reading is not None else _State.IDLE)
        self._read_on()

    def _read_on(self) -> None:
        self.read()
        if self.has_room and not self._unread:
            self._transport.resume_reading()

    def _enter(self, state: _State) -> None:
        self._state = state
        self._since = self._loop.time()
