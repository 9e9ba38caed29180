"""Where a server may listen: a port that is free, or a Unix socket in a folder that nobody else writes to."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from llcuda.errors import PortInUseError, UsageError
from llcuda.transport.address import Address, unix_address

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not listened on
_MAX_PORT = 65535
_SUFFIX = ".sock"
"""What makes a host a path, by llama-server's own rule."""
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_HINT = "Give the path of a file that is not there yet, in a folder of your own: /run/user/1000/llcuda/1.sock"


def check_host(host: str) -> str:
    """Return the one IP address to listen on, or the path of a Unix socket; ``localhost`` is 127.0.0.1.

    Raises UsageError for anything else, and for a path at which no server should listen.
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
    """Raise PortInUseError if something listens on ``port`` of ``host``, UsageError if nobody could.

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


def is_socket_path(host: str) -> bool:
    """Return whether llama-server takes ``host`` for the path of a Unix socket."""
    return host.endswith(_SUFFIX)


def check_socket_path(path: str) -> None:
    """Raise UsageError if no server could, or none should, listen on a Unix socket at ``path``.

    Whoever can write to the folder could put a socket of their own in place of the server's, so only its owner may.
    What is there already is left alone: it may belong to a server.
    """
    unix_address(path, hint=_HINT)
    _check_folder(os.path.dirname(path))  # noqa: PTH120 - the path as it is given
    if os.path.lexists(path):
        raise UsageError(_describe_occupant(path), hint=f"Choose another path, or remove it: rm '{path}'")


def restrict_socket(path: str) -> None:
    """Let nobody but the owner connect."""
    with suppress(OSError):  # some file systems keep no modes
        Path(path).chmod(0o600)


def remove_socket(path: str) -> None:
    """Remove the socket at ``path``, if it is one: llama-server leaves its own behind."""
    with suppress(OSError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)  # noqa: PTH108 - a string all the way


def _check_folder(folder: str) -> None:
    try:
        found = os.stat(folder)  # noqa: PTH116 - a string all the way
    except OSError as error:
        raise UsageError(f"{folder} cannot hold a socket: {error.strerror}", hint=_HINT) from error
    if not stat.S_ISDIR(found.st_mode) or not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{folder} cannot hold a socket: it is not a folder that this user can write to", hint=_HINT)
    if found.st_uid not in {os.geteuid(), 0} or found.st_mode & _OTHERS_MAY_WRITE:
        raise UsageError(
            f"{folder} must not hold a socket: others can write to it", hint=f"{_HINT}, or run: chmod 700 '{folder}'"
        )


def _describe_occupant(path: str) -> str:
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return f"{path} is there already, and it is not a socket"
    import socket  # noqa: PLC0415 - kept out of the import

    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(0.5)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return f"{path} is left from a server that is gone"
        except OSError as error:
            return f"{path} is there already, and cannot be connected to ({error.strerror or error})"
    return f"another server listens on {path}"
