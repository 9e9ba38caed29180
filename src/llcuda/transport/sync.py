"""Blocking requests over kept-alive connections; one transport can be used from several threads.

llama-server closes a connection after its hundredth request and after five idle seconds. So a socket that was idle for
four seconds is not used again, and a request that got not one byte of an answer on a used connection is sent once more
on a new one. It is not repeated otherwise: a server that has begun to answer may have done the work.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from contextlib import suppress
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING

from llcuda.errors import ConnectionFailedError
from llcuda.transport.http1 import ResponseReader, build_head, build_request

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable

    from llcuda.transport.address import Address
    from llcuda.transport.deadline import Deadline

__all__ = ["Exchange", "Transport"]

MAX_IDLE_SECONDS = 4.0
MAX_IDLE_CONNECTIONS = 64
READ_BYTES = 65536


class Exchange:
    """One request that was sent and its answer as it comes. Close it when done with it, also before its end."""

    __slots__ = ("_closed", "_deadline", "_reader", "_socket", "_spare", "_transport")

    def __init__(self, transport: Transport, connection: socket.socket, deadline: Deadline) -> None:
        """Take over the ``connection``."""
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
        if self._reader.complete and self._reader.keep_alive:
            self._transport.give(self._socket)
        else:
            self._socket.close()

    def abort(self) -> None:
        """End the exchange from another thread: the one that waits in it gets ConnectionFailedError."""
        if self._closed:
            return
        with suppress(OSError):  # it may have ended by itself
            self._socket.shutdown(socket.SHUT_RDWR)

    def _receive(self) -> bytes:
        try:
            self._socket.settimeout(self._deadline.remaining())
            data = self._socket.recv(READ_BYTES)
        except TimeoutError:
            raise self._deadline.error() from None
        except OSError as error:
            raise self._failure(error) from None
        return self._reader.feed(data)

    def _failure(self, error: OSError) -> ConnectionFailedError:
        return ConnectionFailedError(self._transport.url, f"the connection broke ({error.strerror or error})")


class Transport:
    """Requests to one server. Closing it closes the connections that wait for the next request."""

    def __init__(self, address: Address, *, api_key: str | None, user_agent: str) -> None:
        """Prepare; nothing is opened before the first request."""
        self.url = address.url
        self._address = address
        self._head = build_head(address.authority, user_agent=user_agent, api_key=api_key)
        self._idle: deque[tuple[float, socket.socket]] = deque()
        self._lock = Lock()
        self._pid = os.getpid()
        self._tls: ssl.SSLContext | None = None

    def exchange(
        self,
        method: str,
        target: str,
        *,
        body: bytes | None,
        deadline: Deadline,
        on_open: Callable[[Exchange], object] | None = None,
    ) -> Exchange:
        """Send a request and return the exchange as soon as the answer's head is there.

        ``on_open`` is given the exchange before that, so that another thread can ``abort`` it while it waits. Raises
        ConnectionFailedError where nobody listens or the connection breaks, and RequestTimeoutError.
        """
        request = build_request(method, self._address.base + target, head=self._head, body=body)
        used = self._take()
        if used is not None:
            exchange = Exchange(self, used, deadline)
            try:
                return self._start(exchange, request, on_open)
            except ConnectionFailedError:
                if not exchange.untouched:
                    raise
        return self._start(Exchange(self, self._connect(deadline), deadline), request, on_open)

    def give(self, connection: socket.socket) -> None:
        """Keep a connection for the next request."""
        with self._lock:
            if len(self._idle) < MAX_IDLE_CONNECTIONS and self._pid == os.getpid():
                self._idle.append((monotonic(), connection))
                return
        connection.close()

    def close(self) -> None:
        """Close the connections that are not in use; a later request opens a new one."""
        with self._lock:
            while self._idle:
                self._idle.pop()[1].close()

    def __del__(self) -> None:
        """Close what an owner forgot to."""
        idle = getattr(self, "_idle", ())
        while idle:
            idle.pop()[1].close()

    @staticmethod
    def _start(exchange: Exchange, request: bytes, on_open: Callable[[Exchange], object] | None) -> Exchange:
        try:
            if on_open is not None:
                on_open(exchange)
            exchange.start(request)
        except BaseException:
            exchange.close()
            raise
        return exchange

    def _take(self) -> socket.socket | None:
        """Return the connection that was used last, if the server has not closed it for being idle."""
        if self._pid != os.getpid():
            self._forget()
        with self._lock:
            while self._idle:
                since, connection = self._idle.pop()
                if monotonic() - since < MAX_IDLE_SECONDS:
                    return connection
                connection.close()
        return None

    def _forget(self) -> None:
        """After a fork: leave the parent's connections to the parent. Two processes on one would mix their answers."""
        self._lock = Lock()
        for _, connection in self._idle:
            connection.close()
        self._idle = deque()
        self._pid = os.getpid()

    def _connect(self, deadline: Deadline) -> socket.socket:
        address = self._address
        if address.is_unix:
            return self._try([(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", address.host)], deadline)
        try:
            candidates = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise ConnectionFailedError(self.url, f"the host is not known ({error.strerror or error})") from None
        return self._try(candidates, deadline)

    def _try(self, candidates: Iterable[tuple[int, int, int, str, object]], deadline: Deadline) -> socket.socket:
        """Return a connection to the first of the candidates, in getaddrinfo's form, that can be connected to."""
        reason = ""
        for family, kind, protocol, _, place in candidates:
            connection = socket.socket(family, kind, protocol)
            try:
                return self._open(connection, place, deadline)
            except TimeoutError:
                connection.close()
                raise deadline.error() from None
            except OSError as error:
                connection.close()
                reason = reason if "refused" in reason else (error.strerror or str(error))
            except BaseException:
                connection.close()
                raise
        raise ConnectionFailedError(self.url, f"cannot connect ({reason})")

    def _open(self, connection: socket.socket, place: object, deadline: Deadline) -> socket.socket:
        connection.settimeout(deadline.remaining())
        connection.connect(place)  # type: ignore[arg-type]  # as getaddrinfo gave it
        if not self._address.is_unix:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._address.scheme != "https":
            return connection
        if self._tls is None:
            import ssl  # noqa: PLC0415 - 23 ms of CPU that plain http need not pay

            self._tls = ssl.create_default_context()
        return self._tls.wrap_socket(connection, server_hostname=self._address.host)
