"""HTTP/1.1 framing without I/O: build a request's bytes, and read a response out of bytes as they come.

Both clients use it, so there is one place that knows the protocol. It reads a streamed token's chunk in about 1 µs;
http.client needs a readline and two reads on a buffered file. It says "complete" at the exact end of a body:
http.client's ``readline`` does not (CPython 3.11), and the next request on the connection then fails.
"""

from __future__ import annotations

import re
from functools import lru_cache

from llcuda.errors import ConnectionFailedError, UsageError

MAX_HEAD_BYTES = 65536
MAX_LINE_BYTES = 4096

_HEX = b"0123456789abcdefABCDEF"
_MAX_SIZE_DIGITS = 16
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
_HEAD, _LENGTH, _CHUNKS, _TRAILER, _UNTIL_CLOSE, _END = range(6)
_FIRST_INTERIM, _SWITCHING_PROTOCOLS, _FIRST_FINAL, _NO_CONTENT, _NOT_MODIFIED = 100, 101, 200, 204, 304
_STATUS_LINE = re.compile(r"(HTTP/1\.[01]) ([0-9]{3})(?: |$)")


def build_head(authority: str, *, user_agent: str, api_key: str | None) -> str:
    """Return the header lines that every request to one server has.

    Raises UsageError for a key that could not stand in a header.
    """
    lines = [f"Host: {authority}", f"User-Agent: {user_agent}", "Accept: */*"]
    if api_key is not None:
        if not api_key or not api_key.isascii() or not api_key.isprintable():
            raise UsageError("the API key is empty or has characters of no key", hint="Is there a line break in it?")
        lines.append(f"Authorization: Bearer {api_key}")
    return "".join(f"{line}\r\n" for line in lines)


def build_request(method: str, target: str, *, head: str, body: bytes | None) -> bytes:
    """Return a whole request, so that one send carries head and body."""
    if body is None:
        return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("ascii")
    start = f"{method} {target} HTTP/1.1\r\n{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return start.encode("ascii") + body


@lru_cache(1024)  # most chunks of a stream have one of a few sizes: 0.1 us instead of 0.7
def _parse_size(line: bytes) -> int | None:
    digits = line.partition(b";")[0].rstrip(b" \t")
    if not digits or digits.strip(_HEX) or len(digits) > _MAX_SIZE_DIGITS:
        return None
    return int(digits, 16)


@lru_cache(32)  # llama-server's streams all have the same: 1.5 us instead of 3.5
def _parse_head(head: bytes) -> tuple[str, int, dict[str, str]]:
    """Return version, status and headers; raises ValueError with the reason."""
    first, *lines = head.decode("latin-1").split("\r\n")
    found = _STATUS_LINE.match(first)
    if found is None:
        raise ValueError("the answer is not HTTP/1.1")
    return found[1], int(found[2]), _parse_headers(lines)


def _parse_headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        if not colon or not name or not _TOKEN.issuperset(name):
            raise ValueError("the head of the answer has a line that is no header")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


class ResponseReader:
    """Read one response: feed it what the connection gives, get what belongs to the body.

    ``status`` is 0 until the head is whole, ``complete`` is true at the exact end, and ``keep_alive`` then says whether
    the connection can carry another request. Anything that is not HTTP, or ends too early, is ConnectionFailedError.
    """

    __slots__ = ("_body", "_held", "_left", "_mode", "_url", "complete", "headers", "keep_alive", "started", "status")

    def __init__(self, url: str) -> None:
        """Wait for the first byte; ``url`` is for the errors."""
        self._url = url
        self._mode = _HEAD
        self._held = b""
        self._left = 0
        self._body: list[bytes] = []
        self.status = 0
        self.headers: dict[str, str] = {}
        self.started = self.complete = False
        self.keep_alive = True

    def feed(self, data: bytes) -> bytes:
        """Take what was received (nothing: the server closed), and return the part of it that is body."""
        if not data:
            return self._close()
        self.started = True
        if self._mode == _HEAD:
            data = self._read_heads(self._held + data)
        if self._mode == _CHUNKS:
            return self._read_chunks(data)
        return self._read_plain(data)

    def _close(self) -> bytes:
        if self._mode != _UNTIL_CLOSE:
            what = "in the middle of its answer" if self.started else "without an answer"
            raise self._error(f"the server closed the connection {what}")
        self._finish()
        return b""

    def _finish(self) -> None:
        self._mode = _END
        self.complete = True

    def _error(self, reason: str) -> ConnectionFailedError:
        return ConnectionFailedError(self._url, reason)

    def _read_heads(self, data: bytes) -> bytes:
        """Read the head, and those of interim (1xx) answers before it; return what comes after."""
        while self._mode == _HEAD:
            end = data.find(b"\r\n\r\n")
            if max(end, 0) > MAX_HEAD_BYTES or (end < 0 and len(data) > MAX_HEAD_BYTES):
                raise self._error(f"the head of the answer is longer than {MAX_HEAD_BYTES} bytes")
            if end < 0:
                self._held = data
                self._check_start(data)
                return b""
            self._read_head(data[:end])
            data = data[end + 4 :]
        self._held = b""
        return data

    def _check_start(self, data: bytes) -> None:
        """Give up on something that is not HTTP as soon as it shows, instead of waiting for the end of its head."""
        if not b"HTTP/1.".startswith(data[:7]):
            raise self._error("the answer is not HTTP/1.1")

    def _read_head(self, head: bytes) -> None:
        try:
            version, status, headers = _parse_head(head)
        except ValueError as error:
            raise self._error(str(error)) from None
        if status == _SWITCHING_PROTOCOLS or status < _FIRST_INTERIM:
            raise self._error(f"the server answered with status {status}")
        if status >= _FIRST_FINAL:
            self.status, self.headers = status, dict(headers)
            self._choose_body(version)

    def _choose_body(self, version: str) -> None:
        """Decide how the body ends (RFC 9112, section 6.3)."""
        headers = self.headers
        self.keep_alive = version == "HTTP/1.1" and "close" not in headers.get("connection", "").lower()
        coding, length = headers.get("transfer-encoding"), headers.get("content-length")
        if self.status in {_NO_CONTENT, _NOT_MODIFIED}:
            self._finish()
        elif coding is not None:
            if coding.lower() != "chunked":
                raise self._error(f"the answer has transfer-encoding {coding}, which was not asked for")
            self._mode = _CHUNKS
            self._left = -1
            self.keep_alive = self.keep_alive and length is None
        elif length is not None:
            self._expect(length)
        else:
            self._mode, self.keep_alive = _UNTIL_CLOSE, False

    def _expect(self, length: str) -> None:
        lengths = {part.strip() for part in length.split(",")}
        only = lengths.pop()
        if lengths or not (only.isascii() and only.isdecimal()) or len(only) > _MAX_SIZE_DIGITS:
            raise self._error(f"the answer has content-length {length!r}")
        self._mode, self._left = _LENGTH, int(only)
        if not self._left:
            self._finish()

    def _read_plain(self, data: bytes) -> bytes:
        """Read a body of known length, or one that ends with the connection; nothing may follow the end."""
        if self._mode == _UNTIL_CLOSE or not data:
            return data
        if self._mode == _TRAILER:
            self._read_trailer(self._held + data)
            return b""
        if self._mode == _END or len(data) > self._left:
            self.keep_alive = False
        body = data[: self._left] if self._mode == _LENGTH else b""
        self._left -= len(body)
        if not self._left and self._mode == _LENGTH:
            self._finish()
        return body

    def _read_chunks(self, data: bytes) -> bytes:
        """Read chunks. ``_left`` is what the current one still has, 0 before its line end, -1 before a size."""
        if self._held:
            data = self._held + data
        body: list[bytes] = []
        at, end, left = 0, len(data), self._left
        while at < end:
            if left < 0:
                line_end = data.find(b"\r\n", at)
                if line_end < 0:
                    self._check_line(end - at)
                    break
                left = self._read_size(data[at:line_end])
                at = line_end + 2
                if not left:
                    self._mode = _TRAILER
                    self._read_trailer(data[at:])
                    return b"".join(body)
            stop = at + left
            if at < stop:
                body.append(data[at:stop])
            if stop >= end:
                left, at = stop - end, end
                break
            if end - stop == 1 and data[stop] == 13:  # noqa: PLR2004 - the line end is cut in two
                left, at = 0, stop
                break
            if data[stop : stop + 2] != b"\r\n":
                raise self._error("a chunk of the answer is longer than it says")
            at, left = stop + 2, -1
        self._left, self._held = left, data[at:]
        return body[0] if len(body) == 1 else b"".join(body)

    def _read_size(self, line: bytes) -> int:
        size = _parse_size(line)
        if size is None:
            raise self._error("a chunk of the answer has no size")
        return size

    def _check_line(self, length: int) -> None:
        if length > MAX_LINE_BYTES:
            raise self._error(f"a line of the answer's framing is longer than {MAX_LINE_BYTES} bytes")

    def _read_trailer(self, data: bytes) -> None:
        """Skip the trailer, up to its empty line."""
        while True:
            line_end = data.find(b"\r\n")
            if line_end < 0:
                self._check_line(len(data))
                self._held = data
                return
            line, data = data[:line_end], data[line_end + 2 :]
            if not line:
                break
            try:
                _parse_headers([line.decode("latin-1")])
            except ValueError as error:
                raise self._error(str(error)) from None
        self.keep_alive = self.keep_alive and not data
        self._finish()
