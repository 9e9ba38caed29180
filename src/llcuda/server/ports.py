"""Where a server may listen, and whether something listens there already."""

from __future__ import annotations

import errno

from llcuda.errors import PortInUseError, UsageError
from llcuda.server.sockets import check_socket_path, is_socket_path
from llcuda.transport.address import Address, unix_address

__all__ = ["check_host", "check_port_free", "to_address"]

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not listened on
_MAX_PORT = 65535


def check_host(host: str) -> str:
    """Return the one IP address to listen on, or the path of a Unix socket; ``localhost`` is 127.0.0.1.

    Raises UsageError for anything else, and for a path where no server should listen.
    """
    import ipaddress  # noqa: PLC0415 - kept out of the import

    if is_socket_path(host):
        check_socket_path(host)
        return host
    try:
        return str(ipaddress.ip_address("127.0.0.1" if host == "localhost" else host))
    except ValueError:
        raise UsageError(f"host={host!r} is not an IP address", hint="Leave it out to listen on 127.0.0.1.") from None


def to_address(host: str, said: str) -> Address:
    """Return the address to connect to for a server that was told ``host`` and ``said`` the URL where it listens."""
    if is_socket_path(host):
        return unix_address(host)
    return Address("http", _WILDCARDS.get(host, host), int(said.rpartition(":")[2]), "")


def check_port_free(host: str, port: int) -> None:
    """Raise PortInUseError where something listens on ``port`` of ``host``, UsageError where nobody could.

    Asked before the start, so that a stranger's server is named at once. What comes in between, llama-server reports.
    """
    import socket  # noqa: PLC0415 - kept out of the import

    if is_socket_path(host):
        raise UsageError(f"port={port} is for an IP address, and {host} is a Unix socket", hint="Leave it out.")
    if not 0 < port <= _MAX_PORT:
        raise UsageError(f"port={port} is not between 1 and {_MAX_PORT}", hint="Leave it out to get a free one.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As llama-server does: connections of an earlier server that are still closing do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise _to_error(error, host, port) from error


def _to_error(error: OSError, host: str, port: int) -> PortInUseError | UsageError:
    if error.errno == errno.EADDRINUSE:
        return PortInUseError(host, port)
    return UsageError(f"nothing can listen on port {port} of {host}: {error.strerror}")
