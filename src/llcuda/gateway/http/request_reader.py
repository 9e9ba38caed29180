"""Requests out of a connection's bytes: llhttp reads them, and what it lets pass is checked and bounded here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import httptools

from llcuda.fleet.refusals import RefusedError

if TYPE_CHECKING:
    from llcuda.gateway.config.configuration import Limits
    from llcuda.gateway.http.exchange import Exchange

__all__ = ["Bounded", "RequestReader"]

# What a second one of would leave open which of the two is meant.
_ONCE = frozenset({
    "authorization", "content-encoding", "content-length", "content-type", "expect", "host", "origin",
    "transfer-encoding", "x-api-key",
})  # fmt: skip
# What llhttp is given at a time, but for bodies of known length: within it, nothing can stop requests from beginning.
_PIECE_BYTES = 1 << 10


class Bounded(Protocol):
    """What bounds the requests; a reload may change the limits."""

    limits: Limits


class RequestReader:
    """Reads the requests of one connection; a subclass takes them. After :meth:`stop_reading` all is thrown away.

    The methods that begin with ``on_`` are llhttp's to call. An exception in one of them would come out as a parser's
    error, so none is raised there.
    """

    __slots__ = ("_bounded", "_fields", "_loose_bytes", "_parser", "_unread", "_upgrading", "_url", "reading")

    def __init__(self, bounded: Bounded) -> None:
        self._bounded = bounded
        # It knows this reader: it is let go of in the end, or both would be kept until garbage is looked for.
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._url = self._unread = b""
        # A head that is not whole is kept as it came: in objects of their own, small headers take 20 times as much.
        self._fields = bytearray()
        self._loose_bytes = 0
        self._upgrading: Exchange | None = None
        self.reading: Exchange | None = None
        """The request that is being read; None between two."""

    @property
    def has_room(self) -> bool:
        """Whether more requests may be read; what has come waits meanwhile."""
        return True

    def begin_request(self) -> Exchange:
        """Return what a request that begins is kept in."""
        raise NotImplementedError

    def take_head(self, exchange: Exchange) -> None:
        """Take a request whose head is whole. Raises RefusedError if it is not worth its body."""
        raise NotImplementedError

    def take_request(self, exchange: Exchange) -> None:
        """Take a request that is whole."""
        raise NotImplementedError

    def refuse(self, error: RefusedError) -> None:
        """Answer what cannot be read to its end."""
        raise NotImplementedError

    def read(self, data: bytes = b"") -> None:
        """Read what has come, and ``data`` after it, as far as there is room for requests."""
        data, self._unread = self._unread + data, b""
        at = 0
        while at < len(data) and self._parser is not None and self.has_room:
            exchange, length = self.reading, _PIECE_BYTES
            if exchange is not None and exchange.head_complete and "transfer-encoding" not in exchange.headers:
                length = max(1, exchange.content_length - exchange.body_bytes)
            piece = data[at : at + length]
            at += len(piece) - self._parse(self._parser, piece)
        if self._parser is not None:
            self._unread = data[at:]

    def stop_reading(self) -> None:
        """Read no more."""
        self._parser = self._upgrading = self.reading = None
        self._unread = b""
        self._fields.clear()
        self._loose_bytes = 0

    def _parse(self, parser: httptools.HttpRequestParser, piece: bytes) -> int:
        """Give llhttp a piece, and return how many bytes at its end are for another parser."""
        self._loose_bytes += len(piece)
        try:
            parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade()
            return len(piece) - int(upgrade.args[0])
        except httptools.HttpParserError as error:
            self._refuse(RefusedError(400, f"this is not HTTP: {error}", code="bad_request", close=True))
        # llhttp keeps what it was given of a header, and counts neither that nor what frames chunks.
        if self._loose_bytes > self._bounded.limits.max_header_bytes:
            self._refuse(self._head_too_large())
        return 0

    def on_message_begin(self) -> None:
        """Begin a request."""
        if self._upgrading is None and self._parser is not None:
            self._url = b""
            self._fields.clear()
            self.reading = self.begin_request()

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; those after the body count, and mean nothing here."""
        exchange, limits = self.reading, self._bounded.limits
        if exchange is None:
            return
        if not exchange.head_complete:
            self._fields += b"%b:%b\n" % (name, value)
        exchange.header_count += 1
        exchange.header_bytes += len(name) + len(value)
        if exchange.header_count > limits.max_headers or exchange.header_bytes > limits.max_header_bytes:
            self._refuse(self._head_too_large())

    def on_headers_complete(self) -> None:
        """Decide whether the body is worth reading."""
        exchange, parser = self.reading, self._parser
        if exchange is None or parser is None or self._upgrading is not None:
            return
        self._loose_bytes = 0
        self._take_fields(exchange.headers)
        if self._parser is None:
            return
        method, version = parser.get_method().decode("latin-1"), parser.get_http_version()
        exchange.read_head(method, self._url.decode("latin-1"), version)
        if parser.should_upgrade():
            self._upgrading = exchange
            exchange.keep_alive = False
        try:
            exchange.check_head(version)
            if exchange.content_length > self._bounded.limits.max_body_bytes:
                raise self._body_too_large()
            self.take_head(exchange)
        except RefusedError as error:
            error.close = error.close or exchange.has_body
            if error.close:
                self._refuse(error)
            else:
                exchange.refusal = error.without_frames()

    def on_body(self, data: bytes) -> None:
        """Take a piece of the body."""
        exchange = self.reading
        if exchange is None:
            return
        self._loose_bytes = 0
        exchange.add_body(data)
        if exchange.body_bytes > self._bounded.limits.max_body_bytes:
            self._refuse(self._body_too_large())

    def on_message_complete(self) -> None:
        """Hand the request on."""
        exchange, parser = self.reading, self._parser
        if exchange is None or parser is None or (exchange is self._upgrading and parser.should_upgrade()):
            return  # the body of one that offers an upgrade is still to come
        self.reading = self._upgrading = None
        self._loose_bytes = 0
        exchange.keep_alive = exchange.keep_alive and parser.should_keep_alive()
        self.take_request(exchange)

    def _take_fields(self, headers: dict[str, str]) -> None:
        for line in self._fields.decode("latin-1").split("\n")[:-1]:
            name, _, value = line.partition(":")
            # llhttp leaves the blanks after a value, which are no part of it.
            key, text = name.lower(), value.rstrip(" \t")
            if key not in headers:
                headers[key] = text
            elif key in _ONCE:
                self._refuse(RefusedError(400, f"there is more than one {key} header", code="bad_request", close=True))
            else:
                headers[key] = f"{headers[key]}, {text}"
        self._fields.clear()

    def _decline_upgrade(self) -> None:
        """Read the body of a request that asks whether we would rather speak HTTP/2 (Java's client always does).

        llhttp takes what follows such a head for the other protocol. It is answered as any other, and is the last.
        """
        exchange = self._upgrading
        if exchange is None or exchange.method == "CONNECT":
            self._refuse(RefusedError(400, "this is no proxy", code="bad_request", close=True))
            return
        self._parser = parser = httptools.HttpRequestParser(self)
        chunked = "transfer-encoding" in exchange.headers
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % exchange.content_length
        parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % framing)

    def _refuse(self, error: RefusedError) -> None:
        if self._parser is not None:
            self.refuse(error)
            self.stop_reading()

    def _head_too_large(self) -> RefusedError:
        limits = self._bounded.limits
        most = f"{limits.max_header_bytes} bytes or {limits.max_headers} headers"
        message = f"the head of the request, or what frames its body, has more than {most}"
        return RefusedError(431, message, code="head_too_large", close=True)

    def _body_too_large(self) -> RefusedError:
        limit = self._bounded.limits.max_body_bytes
        return RefusedError(413, f"the body is larger than {limit} bytes", code="body_too_large", close=True)
