"""Requests over kept-alive connections, whatever moves their bytes: written once, for threads and for asyncio.

Everything that may wait is a coroutine. The connections of ``sync`` do their work within the ``await`` itself, so that
its coroutines never wait, and ``run`` returns what they do: that costs 0.1 us, and a second copy of these rules 250
lines. llama-server closes a connection after its hundredth request and after five idle seconds. So a connection that
was idle for four seconds is not used again, and a request that got not one byte of an answer on a used connection is
sent once more on a new one. It is not repeated otherwise: a server that has begun to answer may have done the work.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from threading import RLock
from time import monotonic
from typing import TYPE_CHECKING, Protocol, TypeVar

from llcuda.errors import ConnectionFailedError, LlcudaError
from llcuda.transport.http1 import ResponseReader, build_head, build_request

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine
    from typing import Any

    from llcuda.transport.address import Address
    from llcuda.transport.deadline import Deadline

MAX_IDLE_SECONDS = 4.0
MAX_IDLE_CONNECTIONS = 64
READ_BYTES = 65536
_CLOSED = "the client was closed while the request was under way"

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    raise RuntimeError("a blocking connection has waited on an event loop")


class ClientConnection(Protocol):
    """A connection to the server. A deadline that passes is a TimeoutError without a number; the kernel's has one."""

    @property
    def owner(self) -> object:
        """The process, and the event loop if there is one, that may use it."""

    @property
    def usable(self) -> bool:
        """Whether the server has not closed it, as far as can be seen."""

    def limit(self, deadline: Deadline | None) -> None:
        """Give what follows a deadline, or none."""

    async def send(self, request: bytes) -> None:
        """Send all of it."""

    async def receive(self) -> bytes:
        """Return what has come, as soon as there is something; nothing at the end."""

    def cut(self) -> None:
        """End what waits on it, from any thread that may use it."""

    def close(self) -> None:
        """Close it."""


class Handle:
    """One request, with all that is done for it. What waits for it gets ConnectionFailedError when it is ended."""

    # The lock is one that its thread can take twice: a stream that is garbage closes itself wherever that thread is.
    __slots__ = ("_cut", "_lock", "_reason", "closings", "url")

    def __init__(self, url: str, *, closings: int) -> None:
        """Begin; ``closings`` is how often the transport had been closed before."""
        self.url = url
        self.closings = closings
        self._lock = RLock()
        self._cut: Callable[[], object] | None = None
        self._reason = ""

    def hold(self, cut: Callable[[], object]) -> None:
        """Take what ends the wait that begins now. Raises ConnectionFailedError if the request was ended already."""
        with self._lock:
            self._cut = cut
        self.check()

    def release(self) -> None:
        """Cut nothing more: the connection is somebody else's from here on."""
        with self._lock:
            self._cut = None

    def end(self, reason: str) -> None:
        """End the request."""
        with self._lock:
            self._reason = self._reason or reason
            if self._cut is not None:
                self._cut()

    def check(self) -> None:
        """Raise ConnectionFailedError if the request was ended."""
        if self._reason:
            hint = "This program ended it itself; the client can be used again."
            raise ConnectionFailedError(self.url, self._reason, hint=hint)


class Response:
    """One request that was sent and its answer as it comes. Close it when done with it, also before its end."""

    __slots__ = ("_connection", "_deadline", "_handle", "_reader", "_spare", "_transport", "closed")

    def __init__(
        self, transport: BaseTransport, connection: ClientConnection, *, deadline: Deadline, handle: Handle
    ) -> None:
        """Take over the ``connection``."""
        self._transport = transport
        self._connection = connection
        self._deadline = deadline
        self._handle = handle
        self._reader = ResponseReader(transport.url)
        self._spare = b""
        self.closed = False

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
        """Send the request and read up to the end of the answer's head; close if that fails."""
        reader, connection = self._reader, self._connection
        try:
            self._transport.watch(self._handle)
            connection.limit(self._deadline)
            self._handle.hold(connection.cut)
            await connection.send(request)
            while not reader.status:
                self._spare = await self._receive()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError) and not isinstance(error, LlcudaError):
                raise self._failure(error) from None
            raise

    async def read(self) -> bytes:
        """Return the next piece of the body, as soon as there is one; nothing at its end."""
        piece, self._spare = self._spare, b""
        while not piece and not self._reader.complete:
            piece = await self._receive()
        return piece

    async def read_all(self, *, max_bytes: int | None = None) -> bytes:
        """Return the whole body and close. Raises ConnectionFailedError if it is longer than ``max_bytes``."""
        pieces, size = [self._spare], len(self._spare)
        try:
            while not self._reader.complete:
                piece = await self._receive()
                pieces.append(piece)
                size += len(piece)
                if max_bytes is not None and size > max_bytes:
                    break
        finally:
            self.close()
        if max_bytes is not None and size > max_bytes:
            raise ConnectionFailedError(self._transport.url, f"the answer is longer than {max_bytes} bytes")
        return b"".join(pieces)

    def close(self) -> None:
        """Keep the connection for the next request if the answer was read to its end, else cut it: that cancels."""
        if self.closed:
            return
        self.closed = True
        self._handle.release()
        self._connection.limit(None)
        self._transport.forget(self._handle)
        if self._reader.complete and self._reader.keep_alive:
            self._transport.give(self._connection)
        else:
            self._connection.close()

    def abort(self) -> None:
        """End it from another thread: the one that waits in it gets ConnectionFailedError."""
        if not self.closed:
            self._handle.end("it was ended by another thread")

    async def _receive(self) -> bytes:
        try:
            data = await self._connection.receive()
        except OSError as error:
            raise self._failure(error) from None
        if not data:
            self._handle.check()
        return self._reader.feed(data)

    def _failure(self, error: OSError) -> LlcudaError:
        self._handle.check()
        if _is_late(error):
            return self._deadline.error()
        return ConnectionFailedError(self._transport.url, f"the connection broke ({_explain(error)})")


class BaseTransport:
    """Requests to one server. Closing it ends those under way, and the connections that wait for the next request."""

    def __init__(
        self, address: Address, *, api_key: str | None, user_agent: str, tls: ssl.SSLContext | None = None
    ) -> None:
        """Prepare; nothing is opened before the first request. Of https, ``tls`` is made then, unless it is given."""
        self.url = address.url
        self._address = address
        self._head = build_head(address.authority, user_agent=user_agent, api_key=api_key)
        # Without a lock, which would cost each request more: each of their methods is one step, in any thread.
        self._idle: deque[tuple[float, ClientConnection]] = deque()
        self._handles: set[Handle] = set()
        self._closings = 0
        self._owner: object = None
        self._tls = tls

    def begin(self) -> Handle:
        """Return the handle of a new request, for all the times that it is sent."""
        return Handle(self.url, closings=self._closings)

    async def exchange(
        self, method: str, target: str, *, body: bytes | None, deadline: Deadline, handle: Handle | None = None
    ) -> Response:
        """Send a request and return the response as soon as the answer's head is there.

        With the ``handle`` another thread or task can end it while it waits. Raises ConnectionFailedError if nobody
        listens or the connection breaks, and RequestTimeoutError.
        """
        request = build_request(method, self._address.base + target, head=self._head, body=body)
        handle = handle or self.begin()
        used = self._take()
        if used is not None:
            response = Response(self, used, deadline=deadline, handle=handle)
            try:
                await response.start(request)
            except ConnectionFailedError:
                handle.check()
                if not response.untouched:
                    raise
            else:
                return response
        response = Response(self, await self._connect(deadline, handle), deadline=deadline, handle=handle)
        await response.start(request)
        return response

    async def pause(self, seconds: float, *, handle: Handle) -> None:
        """Wait before a request is sent again. Raises ConnectionFailedError if it is ended meanwhile."""
        self.watch(handle)
        try:
            await self._wait(seconds, handle)
            handle.check()
        finally:
            handle.release()
            self.forget(handle)

    def give(self, connection: ClientConnection) -> None:
        """Keep a connection for the next request."""
        if len(self._idle) < MAX_IDLE_CONNECTIONS and connection.owner == self._owner and connection.usable:
            self._idle.append((monotonic(), connection))
        else:
            connection.close()

    def watch(self, handle: Handle) -> None:
        """Let the handle's request end when this is closed, also if that was between two of its attempts."""
        self._handles.add(handle)
        if handle.closings != self._closings:
            handle.end(_CLOSED)

    def forget(self, handle: Handle) -> None:
        """Take note that a request is over."""
        self._handles.discard(handle)

    def close(self) -> None:
        """End the requests under way, from any thread, and close all connections; a later request opens a new one."""
        self._closings += 1
        for handle in self._handles.copy():
            handle.end(_CLOSED)
        self._close_idle()

    def __del__(self) -> None:
        """Close what an owner forgot to."""
        if hasattr(self, "_idle"):
            self._close_idle()

    def _find_owner(self) -> object:
        """Return who asks; the connections of another are not used."""
        raise NotImplementedError

    async def _open(self, deadline: Deadline, handle: Handle) -> ClientConnection:
        """Return a new connection. Raises OSError, or TimeoutError without a number if time is up."""
        raise NotImplementedError

    async def _wait(self, seconds: float, handle: Handle) -> None:
        """Wait, unless the handle's request is ended meanwhile."""
        raise NotImplementedError

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop()[1].close()

    def _take(self) -> ClientConnection | None:
        """Return the connection that was used last, if the server has not closed it for being idle."""
        owner = self._find_owner()
        if owner != self._owner:
            # After a fork two processes on one connection would mix their answers.
            self._close_idle()
            self._handles = set()
            self._owner = owner
        while True:
            try:
                since, connection = self._idle.pop()
            except IndexError:
                return None
            if monotonic() - since < MAX_IDLE_SECONDS and connection.usable:
                return connection
            connection.close()

    async def _connect(self, deadline: Deadline, handle: Handle) -> ClientConnection:
        self.watch(handle)
        try:
            return await self._open(deadline, handle)
        except OSError as error:
            handle.check()
            if _is_late(error):
                raise deadline.error() from None
            unknown = isinstance(error, socket.gaierror)
            reason = f"{'the host is not known' if unknown else 'cannot connect'} ({_explain(error)})"
            raise ConnectionFailedError(self.url, reason, refused=error.errno == errno.ECONNREFUSED) from None
        finally:
            handle.release()
            self.forget(handle)

    def _choose_tls(self) -> ssl.SSLContext | None:
        if self._address.scheme == "https" and self._tls is None:
            import ssl  # noqa: PLC0415 - 23 ms of CPU that plain http need not pay

            self._tls = ssl.create_default_context()
        return self._tls


def _is_late(error: OSError) -> bool:
    return isinstance(error, TimeoutError) and error.errno is None


def _explain(error: OSError) -> str:
    """Return the reason without the addresses that asyncio adds to it. TLS and look-ups have numbers of their own."""
    if error.errno and not hasattr(error, "library") and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno)
    return error.strerror or str(error)
