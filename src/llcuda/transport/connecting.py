"""Open a connection: over TCP, with TLS or without, or to a Unix socket."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from llcuda.errors import ConnectionFailedError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    from llcuda.transport.address import Address
    from llcuda.transport.deadline import Deadline
    from llcuda.transport.handle import Handle

    Candidate = tuple[int, int, int, str, object]

__all__ = ["connect"]


def connect(address: Address, *, tls: ssl.SSLContext | None, deadline: Deadline, handle: Handle) -> socket.socket:
    """Return a connection to the address, which the ``handle`` holds.

    Raises ConnectionFailedError where there is none to be had, ``refused`` where nobody listens, and
    RequestTimeoutError.
    """
    reason, refused = "", False
    for family, kind, protocol, _, place in _find_candidates(address):
        connection = socket.socket(family, kind, protocol)
        try:
            handle.hold(connection)
            return _open(connection, place, address=address, tls=tls, deadline=deadline, handle=handle)
        except TimeoutError:
            connection.close()
            handle.check()
            raise deadline.error() from None
        except ConnectionFailedError:
            connection.close()
            raise
        except OSError as error:
            connection.close()
            handle.check()
            if not refused:
                reason, refused = error.strerror or str(error), error.errno == errno.ECONNREFUSED
        except BaseException:
            connection.close()
            raise
    raise ConnectionFailedError(address.url, f"cannot connect ({reason})", refused=refused)


def _find_candidates(address: Address) -> Sequence[Candidate]:
    """Return the places to try, in getaddrinfo's form."""
    if address.is_unix:
        return [(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", address.host)]
    try:
        return socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConnectionFailedError(address.url, f"the host is not known ({error.strerror or error})") from None


def _open(
    connection: socket.socket,
    place: object,
    *,
    address: Address,
    tls: ssl.SSLContext | None,
    deadline: Deadline,
    handle: Handle,
) -> socket.socket:
    connection.settimeout(deadline.remaining())
    connection.connect(place)  # type: ignore[arg-type]  # as getaddrinfo gave it
    if not address.is_unix:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection if tls is None else _secure(connection, host=address.host, tls=tls, handle=handle)


def _secure(connection: socket.socket, *, host: str, tls: ssl.SSLContext, handle: Handle) -> socket.socket:
    secured = tls.wrap_socket(connection, server_hostname=host, do_handshake_on_connect=False)
    try:
        handle.hold(secured)  # the socket below it is no longer one
        secured.do_handshake()
    except BaseException:
        secured.close()
        raise
    return secured
