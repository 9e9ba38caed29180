"""Requests out of a connection's bytes: llhttp reads them, and what it lets pass is checked and bounded here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import httptools

from llcuda.gateway.refusals import RefusedError

if TYPE_CHECKING:
    from llcuda.gateway.config import Limits
    from llcuda.gateway.exchange import Exchange

__all__ = ["Audience", "RequestReader"]

# What a second one of would leave open which of the two is meant.
_ONCE = frozenset({
    "authorization", "content-encoding", "content-length", "content-type", "expect", "host", "origin",
    "transfer-encoding", "x-api-key",
})  # fmt: skip
# A line without a version, which llhttp calls 0.9, would have headers and a body for us alone.
_VERSIONS = frozenset({"1.0", "1.1"})


class Audience(Protocol):
    """Who is told of requests as they are read."""

    @property
    def limits(self) -> Limits:
        """The bounds of what is read."""

    def begin_request(self) -> Exchange:
        """Return what a request that begins is kept in."""

    def take_head(self, exchange: Exchange) -> None:
        """Take a request whose head is whole. Raises RefusedError where it is not worth its body."""

    def take_request(self, exchange: Exchange) -> None:
        """Take a request that is whole."""

    def refuse(self, error: RefusedError) -> None:
        """Answer what cannot be read to its end."""


class RequestReader:
    """Reads the requests of one connection. After :meth:`close`, or a refusal, what comes is thrown away.

    The methods that begin with ``on_`` are llhttp's to call. An exception in one of them would come out as a parser's
    error, so none is raised there.
    """

    __slots__ = ("_audience", "_head_bytes", "_is_closed", "_parser", "_upgrading", "_url", "exchange")

    def __init__(self, audience: Audience) -> None:
        """Tell ``audience`` of what is read."""
        self._audience = audience
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._head_bytes = 0
        self._is_closed = False
        self._upgrading: Exchange | None = None
        self.exchange: Exchange | None = None
        """The request that is being read; None between two."""

    def feed(self, data: bytes) -> None:
        """Take what has come."""
        if self._is_closed:
            return
        if self.exchange is None or not self.exchange.head_complete:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._refuse(RefusedError(400, f"this is not HTTP: {error}", code="bad_request", close=True))
        exchange = self.exchange
        if exchange and not exchange.head_complete and self._head_bytes > self._audience.limits.max_header_bytes:
            self._refuse(self._head_too_large())

    def close(self) -> None:
        """Read no more."""
        self._is_closed = True

    def on_message_begin(self) -> None:
        """Begin a request."""
        if self._upgrading is None and not self._is_closed:
            self._url = b""
            self.exchange = self._audience.begin_request()

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; those after the body mean nothing here."""
        exchange = self.exchange
        if exchange is None or self._is_closed or exchange.head_complete:
            return
        headers, limits = exchange.headers, self._audience.limits
        # llhttp leaves the blanks after a value, which are no part of it.
        key, text = name.decode("latin-1").lower(), value.decode("latin-1").rstrip(" \t")
        if key not in headers:
            headers[key] = text
        elif key in _ONCE:
            self._refuse(RefusedError(400, f"there is more than one {key} header", code="bad_request", close=True))
        else:
            headers[key] = f"{headers[key]}, {text}"
        exchange.header_count += 1
        exchange.header_bytes += len(name) + len(value)
        if exchange.header_count > limits.max_headers or exchange.header_bytes > limits.max_header_bytes:
            self._refuse(self._head_too_large())

    def on_headers_complete(self) -> None:
        """Let the audience decide whether the body is worth reading."""
        exchange, parser = self.exchange, self._parser
        if exchange is None or self._is_closed or self._upgrading is not None:
            return
        self._head_bytes = 0
        method, version = parser.get_method().decode("latin-1"), parser.get_http_version()
        exchange.read_head(method, self._url.decode("latin-1"), version)
        if parser.should_upgrade():
            self._upgrading = exchange
            exchange.keep_alive = False
        try:
            _check_version(version)
            exchange.check_head()
            if exchange.content_length > self._audience.limits.max_body_bytes:
                raise self._body_too_large()
            self._audience.take_head(exchange)
        except RefusedError as error:
            error.close = error.close or exchange.has_body
            if error.close:
                self._refuse(error)
            else:
                exchange.refusal = error

    def on_body(self, data: bytes) -> None:
        """Take a piece of the body."""
        exchange = self.exchange
        if exchange is None or self._is_closed:
            return
        exchange.add_body(data)
        if exchange.body_bytes > self._audience.limits.max_body_bytes:
            self._refuse(self._body_too_large())

    def on_message_complete(self) -> None:
        """Hand the request on."""
        exchange = self.exchange
        if exchange is None or self._is_closed or (exchange is self._upgrading and self._parser.should_upgrade()):
            return  # the body of one that offers an upgrade is still to come
        self.exchange = self._upgrading = None
        self._head_bytes = 0
        exchange.keep_alive = exchange.keep_alive and self._parser.should_keep_alive()
        self._audience.take_request(exchange)

    def _decline_upgrade(self, rest: bytes) -> None:
        """Read the body of a request that asks whether we would rather speak HTTP/2 (Java's client always does).

        llhttp takes what follows such a head for the other protocol. It is answered as any other, and is the last.
        """
        exchange = self._upgrading
        if exchange is None or exchange.method == "CONNECT":
            self._refuse(RefusedError(400, "this is no proxy", code="bad_request", close=True))
            return
        self._parser = httptools.HttpRequestParser(self)
        chunked = "transfer-encoding" in exchange.headers
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % exchange.content_length
        self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % framing)
        if rest:
            self.feed(rest)

    def _refuse(self, error: RefusedError) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._audience.refuse(error)

    def _head_too_large(self) -> RefusedError:
        limits = self._audience.limits
        most = f"{limits.max_header_bytes} bytes or {limits.max_headers} headers"
        return RefusedError(431, f"the head of the request has more than {most}", code="head_too_large", close=True)

    def _body_too_large(self) -> RefusedError:
        limit = self._audience.limits.max_body_bytes
        return RefusedError(413, f"the body is larger than {limit} bytes", code="body_too_large", close=True)


def _check_version(version: str) -> None:
    if version not in _VERSIONS:
        raise RefusedError(505, "the request is not of HTTP/1.0 or HTTP/1.1", code="bad_request", close=True)
