"""The writing of an answer over HTTP/1."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

from llcuda.gateway.http.exchange import Exchange

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Client", "HttpExchange"]

_NOT_MODIFIED = 304

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
# `nosniff`: an answer may hold whatever a model says, and a browser must not take it for a page.
_ALWAYS = "Server: llcuda\r\nX-Content-Type-Options: nosniff\r\n"


class Client(Protocol):
    """Who is written to."""

    @property
    def is_paused(self) -> bool:
        """Whether it does not take what it is sent."""

    @property
    def is_gone(self) -> bool:
        """Whether it has left."""

    @property
    def is_last(self) -> bool:
        """Whether nothing is read of it after this answer."""

    def write(self, data: bytes) -> None:
        """Send it bytes."""


class HttpExchange(Exchange):
    """One request, and what has been written of its answer."""

    __slots__ = ("_client", "_held")

    def __init__(self, client: Client) -> None:
        """Wait for the head."""
        super().__init__()
        self._client = client
        self._held = b""

    def respond(
        self, status: int, body: bytes, *, content_type: str = "application/json", headers: Iterable[str] = ()
    ) -> None:
        """Write a whole answer; ``headers`` are lines without their ends."""
        self.status = status
        self.started = self.finished = True
        self._held = b""
        more = "".join(f"{line}\r\n" for line in headers)
        head = self._head(status, content_type, f"{more}Content-Length: {len(body)}\r\n")
        self._write(head if self.method == "HEAD" or status == _NOT_MODIFIED else head + body)

    def start_stream(self, status: int, content_type: str) -> None:
        """Begin an answer that comes in pieces; nothing is sent before the first."""
        self.status = status
        # Proxies such as nginx would collect a stream before they pass it on.
        more = "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"
        self.keep_alive = self.keep_alive and self._chunked
        chunked = "Transfer-Encoding: chunked\r\n" if self._chunked else ""
        self._held = self._head(status, content_type, more + chunked)

    def start_file(self, content_type: str, *, length: int, headers: Iterable[str] = ()) -> None:
        """Begin an answer of so many bytes that comes in pieces; the connection ends with it, also where it is cut."""
        self.status = 200
        self.keep_alive = self._chunked = False
        more = "".join(f"{line}\r\n" for line in headers)
        self._held = self._head(200, content_type, f"{more}Content-Length: {length}\r\n")

    def write(self, data: bytes, *, is_last: bool = False) -> None:
        """Write a piece of a stream; the head goes with the first, the end with the last."""
        self.started = True
        head, self._held = self._held, b""
        piece = b"%x\r\n%b\r\n" % (len(data), data) if self._chunked and data else data
        end = b"0\r\n\r\n" if is_last and self._chunked else b""
        self.finished = is_last
        self._write(head + piece + end)

    @property
    def is_gone(self) -> bool:
        """Whether the client has gone."""
        return self._client.is_gone

    @property
    def is_slow(self) -> bool:
        """Whether the client does not take what it is sent."""
        return self._client.is_paused

    def _head(self, status: int, content_type: str, more: str) -> bytes:
        if self._client.is_last:
            self.keep_alive = False
        close = "" if self.keep_alive else "Connection: close\r\n"
        identity = f"X-Request-Id: {self.request_id}\r\n" if self.request_id else ""
        line = _STATUS_LINES[status]
        text = f"{line}Content-Type: {content_type}\r\n{_ALWAYS}{identity}{self.extra_headers}{close}{more}\r\n"
        return text.encode("latin-1")

    def _write(self, data: bytes) -> None:
        self.bytes_out += len(data)
        self._client.write(data)
