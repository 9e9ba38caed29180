"""Blocking requests over kept-alive connections; one transport can be used from several threads.

llama-server closes a connection after its hundredth request and after five idle seconds. So a socket that was idle for
four seconds is not used again, and a request that got not one byte of an answer on a used connection is sent once more
on a new one. It is not repeated otherwise: a server that has begun to answer may have done the work.
"""

from __future__ import annotations

import os
from collections import deque
from threading import RLock
from time import monotonic
from typing import TYPE_CHECKING

from llcuda.errors import ConnectionFailedError
from llcuda.transport.connecting import connect
from llcuda.transport.handle import CLOSED, Handle
from llcuda.transport.http1 import ResponseReader, build_head, build_request

if TYPE_CHECKING:
    import socket
    import ssl

    from llcuda.transport.address import Address
    from llcuda.transport.deadline import Deadline

__all__ = ["Exchange", "Transport"]

MAX_IDLE_SECONDS = 4.0
MAX_IDLE_CONNECTIONS = 64
READ_BYTES = 65536


class Exchange:
    """One request that was sent and its answer as it comes. Close it when done with it, also before its end."""

    __slots__ = ("_closed", "_deadline", "_handle", "_reader", "_socket", "_spare", "_transport")

    def __init__(
        self, transport: Transport, connection: socket.socket, *, deadline: Deadline, handle: Handle
    ) -> None:
        """Take over the ``connection``."""
        self._handle = handle
        self._transport = transport
        self._socket = connection
        self._deadline = deadline
        self._closed = False
        self._reader = ResponseReader(transport.url)
        self._spare = b""

    @property
    def status(self) -> int:
        """Return the HTTP status."""
        return self._reader.status

    @property
    def headers(self) -> dict[str, str]:
        """Return the answer's headers, names in lower case."""
        return self._reader.headers

    def start(self, request: bytes) -> None:
        """Send the request and read up to the end of the answer's head."""
        reader = self._reader
        self._handle.hold(self._socket)
        try:
            self._socket.settimeout(self._deadline.remaining())
            self._socket.sendall(request)
        except TimeoutError:
            raise self._deadline.error() from None
        except OSError as error:
            raise self._failure(error) from None
        while not reader.status:
            self._spare = self._receive()

    @property
    def closed(self) -> bool:
        """Tell whether the exchange is over, one way or the other."""
        return self._closed

    @property
    def untouched(self) -> bool:
        """Tell whether the server has sent nothing at all."""
        return not self._reader.started

    def read(self) -> bytes:
        """Return the next piece of the body, as soon as there is one; nothing at its end."""
        piece, self._spare = self._spare, b""
        while not piece and not self._reader.complete:
            piece = self._receive()
        return piece

    def read_all(self) -> bytes:
        """Return the whole body and close."""
        pieces = []
        try:
            while piece := self.read():
                pieces.append(piece)
        finally:
            self.close()
        return b"".join(pieces)

    def close(self) -> None:
        """Keep the connection for the next request if the answer was read to its end, else cut it: that cancels."""
        if self._closed:
            return
        self._closed = True
        self._handle.release()
        self._transport.forget(self._handle)
        if self._reader.complete and self._reader.keep_alive:
            self._transport.give(self._socket)
        else:
            self._socket.close()

    def abort(self) -> None:
        """End the exchange from another thread: the one that waits in it gets ConnectionFailedError."""
        if not self._closed:
            self._handle.end("it was ended by another thread")

    def _receive(self) -> bytes:
        try:
            self._socket.settimeout(self._deadline.remaining())
            data = self._socket.recv(READ_BYTES)
        except TimeoutError:
            raise self._deadline.error() from None
        except OSError as error:
            raise self._failure(error) from None
        if not data:
            self._handle.check()
        return self._reader.feed(data)

    def _failure(self, error: OSError) -> ConnectionFailedError:
        self._handle.check()
        return ConnectionFailedError(self._transport.url, f"the connection broke ({error.strerror or error})")


class Transport:
    """Requests to one server. Closing it ends those under way, and the connections that wait for the next request."""

    def __init__(self, address: Address, *, api_key: str | None, user_agent: str) -> None:
        """Prepare; nothing is opened before the first request."""
        self.url = address.url
        self._address = address
        self._head = build_head(address.authority, user_agent=user_agent, api_key=api_key)
        self._idle: deque[tuple[float, socket.socket]] = deque()
        self._lock = RLock()  # one that its thread can take twice: garbage may close its exchange in the midst of it
        # Without the lock, which would cost each request more: a set is changed and copied in one step.
        self._handles: set[Handle] = set()
        self._closings = 0
        self._pid = os.getpid()
        self._tls: ssl.SSLContext | None = None

    def begin(self) -> Handle:
        """Return the handle of a new request, for all the times that it is sent."""
        return Handle(self.url, closings=self._closings)

    def exchange(
        self, method: str, target: str, *, body: bytes | None, deadline: Deadline, handle: Handle | None = None
    ) -> Exchange:
        """Send a request and return the exchange as soon as the answer's head is there.

        With the ``handle`` another thread can end it while it waits. Raises ConnectionFailedError where nobody listens
        or the connection breaks, and RequestTimeoutError.
        """
        request = build_request(method, self._address.base + target, head=self._head, body=body)
        if self._pid != os.getpid():
            self._leave_to_parent()
        handle = handle or self.begin()
        used = self._take()
        if used is not None:
            exchange = Exchange(self, used, deadline=deadline, handle=handle)
            try:
                return self._start(exchange, request, handle)
            except ConnectionFailedError:
                handle.check()
                if not exchange.untouched:
                    raise
        connection = self._connect(deadline, handle)
        return self._start(Exchange(self, connection, deadline=deadline, handle=handle), request, handle)

    def pause(self, seconds: float, *, handle: Handle) -> None:
        """Wait before a request is sent again, raising ConnectionFailedError where it is ended meanwhile."""
        self._watch(handle)
        try:
            handle.pause(seconds)
        finally:
            self.forget(handle)

    def give(self, connection: socket.socket) -> None:
        """Keep a connection for the next request."""
        with self._lock:
            if len(self._idle) < MAX_IDLE_CONNECTIONS and self._pid == os.getpid():
                self._idle.append((monotonic(), connection))
                return
        connection.close()

    def forget(self, handle: Handle) -> None:
        """Take note that a request is over."""
        self._handles.discard(handle)

    def close(self) -> None:
        """End the requests under way, from any thread, and close all connections; a later request opens a new one."""
        if self._pid != os.getpid():
            self._leave_to_parent()
        self._closings += 1
        for handle in self._handles.copy():
            handle.end(CLOSED)
        with self._lock:
            while self._idle:
                self._idle.pop()[1].close()

    def __del__(self) -> None:
        """Close what an owner forgot to."""
        idle = getattr(self, "_idle", ())
        while idle:
            idle.pop()[1].close()

    def _watch(self, handle: Handle) -> None:
        """Let the handle's request end when this is closed, also where that was between two of its attempts."""
        self._handles.add(handle)
        if handle.closings != self._closings:
            handle.end(CLOSED)

    def _start(self, exchange: Exchange, request: bytes, handle: Handle) -> Exchange:
        self._watch(handle)
        try:
            exchange.start(request)
        except BaseException:
            exchange.close()
            raise
        return exchange

    def _take(self) -> socket.socket | None:
        """Return the connection that was used last, if the server has not closed it for being idle."""
        with self._lock:
            while self._idle:
                since, connection = self._idle.pop()
                if monotonic() - since < MAX_IDLE_SECONDS:
                    return connection
                connection.close()
        return None

    def _leave_to_parent(self) -> None:
        """After a fork: leave the parent's connections to the parent. Two processes on one would mix their answers."""
        self._lock = RLock()
        for _, connection in self._idle:
            connection.close()
        self._idle = deque()
        self._handles = set()
        self._pid = os.getpid()

    def _connect(self, deadline: Deadline, handle: Handle) -> socket.socket:
        self._watch(handle)
        try:
            return connect(self._address, tls=self._choose_tls(), deadline=deadline, handle=handle)
        except BaseException:
            handle.release()
            self.forget(handle)
            raise

    def _choose_tls(self) -> ssl.SSLContext | None:
        if self._address.scheme == "https" and self._tls is None:
            import ssl  # noqa: PLC0415 - 23 ms of CPU that plain http need not pay

            self._tls = ssl.create_default_context()
        return self._tls
