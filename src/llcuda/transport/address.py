"""Where a server is: scheme, host, port and base path, or the path of its Unix socket."""

from __future__ import annotations

import os
from dataclasses import dataclass

from llcuda.errors import UsageError

MAX_SOCKET_BYTES = 107
"""The longest path that the kernel takes, without the zero byte at its end."""

_DEFAULT_PORTS = {"http": 80, "https": 443}
_MAX_PORT = 65535
_UNIX = "unix"
_HINT = "Write it as http://host:port, http://host:port/base, https://host or unix:/path/to.sock."


@dataclass(frozen=True, slots=True)
class Address:
    """A server's address; ``base`` is a path without a slash at its end, often empty.

    With the scheme ``unix`` the ``host`` is the path of a socket, and the port 0.
    """

    scheme: str
    host: str
    port: int
    base: str

    @property
    def is_unix(self) -> bool:
        """Return whether it is a Unix socket."""
        return self.scheme == _UNIX

    @property
    def authority(self) -> str:
        """Return ``host:port``, an IPv6 address in brackets, as the Host header wants it."""
        if self.is_unix:
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """Return the address as a URL without a slash at its end."""
        if self.is_unix:
            return f"{_UNIX}:{self.host}"
        return f"{self.scheme}://{self.authority}{self.base}"


def parse_address(url: str) -> Address:
    """Take a URL apart; ``unix:/path/to.sock`` is a Unix socket.

    A path ``/v1`` at the end is left out, so that an OpenAI client's ``base_url`` can be given as it is.
    Raises UsageError for anything that is not an http or https address or a socket's path, and for one with a user
    name, a query or a fragment, which would be lost in silence.
    """
    if url.startswith(f"{_UNIX}:"):
        return unix_address(url.removeprefix(f"{_UNIX}:"))
    from urllib.parse import urlsplit  # noqa: PLC0415 - 9 ms of CPU, not needed to import the client

    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{url!r} is not an address: {error}", hint=_HINT) from None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise UsageError(f"{url!r} is not an http or https address", hint=_HINT)
    if parts.query or parts.fragment or parts.username is not None:
        raise UsageError(f"{url!r} has a user name, a query or a fragment", hint=f"{_HINT} A key goes into api_key=…")
    _require_plain(parts.hostname + parts.path, what=url)
    base = parts.path.rstrip("/").removesuffix("/v1")
    return Address(parts.scheme, parts.hostname, _DEFAULT_PORTS[parts.scheme] if port is None else port, base)


def unix_address(path: str, *, hint: str = _HINT) -> Address:
    """Return the address of the Unix socket at ``path``; any number of slashes before it is one.

    Raises UsageError for a path that is not absolute, that the kernel would not take, or that cannot stand in a line.
    """
    whole = f"/{path.lstrip('/')}"
    if not path.startswith("/") or whole == "/" or not whole.isprintable():
        raise UsageError(f"{path!r} is not the absolute path of a Unix socket", hint=hint)
    if len(os.fsencode(whole)) > MAX_SOCKET_BYTES:
        raise UsageError(f"the path of a Unix socket has at most {MAX_SOCKET_BYTES} bytes: {whole}", hint=hint)
    return Address(_UNIX, whole, 0, "")


def join_address(host: str, port: int) -> Address:
    """Return the http address of ``host`` and ``port``.

    Raises UsageError for a port that is none, and for a host that is a URL or has a port in it.
    """
    if not 0 < port <= _MAX_PORT:
        raise UsageError(f"port {port} is not between 1 and {_MAX_PORT}")
    bare = host.removeprefix("[").removesuffix("]")
    _require_plain(bare, what=host)
    if not bare or "/" in bare or bare.count(":") == 1:
        raise UsageError(f"{host!r} is not a host name", hint="Give a whole address as url=…, a port as port=…")
    return Address("http", bare, port, "")


def _require_plain(text: str, *, what: str) -> None:
    """Refuse what would break out of the request's head."""
    if not text.isascii() or not text.isprintable() or " " in text:
        raise UsageError(f"{what!r} has characters that an address cannot have", hint=_HINT)
