"""Blocking connections, and the transport of threads: one can be used from several."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from threading import Event
from typing import TYPE_CHECKING

from llcuda.transport.base_transport import READ_BYTES, BaseTransport, ClientConnection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llcuda.transport.address import Address
    from llcuda.transport.base_transport import Handle
    from llcuda.transport.deadline import Deadline

    Candidate = tuple[int, int, int, str, object]


class Transport(BaseTransport):
    """Requests to one server, from several threads. Its coroutines never wait on an event loop: ``run`` runs them."""

    def _find_owner(self) -> object:
        return os.getpid()

    async def _wait(self, seconds: float, handle: Handle) -> None:
        waking = Event()
        handle.hold(waking.set)
        waking.wait(seconds)

    async def _open(self, deadline: Deadline, handle: Handle) -> ClientConnection:
        """Return a connection to the first place that takes one; if none does, a refusal is what is raised first."""
        failure: OSError | None = None
        for family, kind, protocol, _, place in _find_candidates(self._address):
            connection = _Blocking(socket.socket(family, kind, protocol), deadline)
            try:
                handle.hold(connection.cut)
                self._greet(connection, place, handle)
            except OSError as error:
                connection.close()
                handle.check()
                if error.errno is None:
                    raise
                if failure is None or failure.errno != errno.ECONNREFUSED:
                    failure = error
            except BaseException:
                connection.close()
                raise
            else:
                return connection
        raise failure or OSError("there is no address to try")

    def _greet(self, connection: _Blocking, place: object, handle: Handle) -> None:
        connection.connect(place)
        if not self._address.is_unix:
            connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tls = self._choose_tls()
        if tls is not None:
            # The socket below it is no longer one, and could not be cut meanwhile.
            connection.socket = tls.wrap_socket(
                connection.socket, server_hostname=self._address.host, do_handshake_on_connect=False
            )
            handle.check()
            connection.socket.do_handshake()


class _Blocking:
    __slots__ = ("_deadline", "owner", "socket")

    usable = True
    """A server that has closed it is found out by sending."""

    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        self.socket = connection
        self._deadline = deadline
        self.owner = os.getpid()

    def limit(self, deadline: Deadline | None) -> None:
        self._deadline = deadline or self._deadline

    def connect(self, place: object) -> None:
        self.socket.settimeout(self._deadline.remaining())
        self.socket.connect(place)  # type: ignore[arg-type]  # as getaddrinfo gave it

    async def send(self, request: bytes) -> None:
        self.socket.settimeout(self._deadline.remaining())
        self.socket.sendall(request)

    async def receive(self) -> bytes:
        self.socket.settimeout(self._deadline.remaining())
        return self.socket.recv(READ_BYTES)

    def cut(self) -> None:
        if self.owner == os.getpid():
            with suppress(OSError):  # it may have ended by itself
                # Not TLS's own shutdown, which takes away what the other thread is reading from.
                socket.socket.shutdown(self.socket, socket.SHUT_RDWR)

    def close(self) -> None:
        self.socket.close()


def _find_candidates(address: Address) -> Sequence[Candidate]:
    """Return the places to try, in getaddrinfo's form."""
    if address.is_unix:
        return [(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", address.host)]
    return socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
