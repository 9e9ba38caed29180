"""What the gateway's reader and h11 make of the same bytes, and whether they agree."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import h11

from llcuda.gateway import Limits
from llcuda.gateway.http.exchange import Exchange
from llcuda.gateway.http.request_reader import RequestReader

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llcuda.fleet.refusals import RefusedError
    from llcuda.gateway.http.request_reader import Bounded

__all__ = ["SAFE", "Message", "Reading", "compare", "name_lenience", "read_here", "read_there"]

_LIMITS = Limits()
_FINISHED = h11.Response(status_code=400, headers=[("Content-Length", "0")])
SAFE: dict[str, str] = {
    "empty lines before a request, which RFC 9112 (2.2) lets a server skip": (
        r"""no request line received|illegal request line: bytearray\(b['"](\\r|\\n)+[A-Z]"""
    ),
    "several blanks within a request line, which RFC 9112 (3) lets a server read as one": (
        r"""illegal request line: bytearray\(b['"][A-Z-]+ +[^ ]+ +HTTP/1\.[01]['"]\)"""
    ),
    "a request of RTSP/1.0 or ICE/1.0, read as one of HTTP/1.0, which is the last of its connection": (
        r"""illegal request line: bytearray\(b['"][A-Z-]+ +[^ ]+ +(RTSP|ICE)/1\.0['"]\)"""
    ),
    "a chunk's size of more than 20 digits, the first of them zeros": (
        r"""illegal chunk header: bytearray\(b['"]0+[0-9a-fA-F]{1,16}(;.*)?\\r\\n['"]\)"""
    ),
}
"""What the gateway takes and h11 does not, and why nobody is led astray by it: patterns of h11's refusals."""


@dataclass(frozen=True, slots=True)
class Message:
    """A request, without what may be written in several ways."""

    method: str
    target: str
    version: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Reading:
    """The requests of a stream, and how it ended."""

    messages: list[Message] = field(default_factory=list)
    refusal: str = ""
    """Why nothing more was read; empty where more could come."""
    is_last: bool = False
    """Whether the last request was one after which the connection closes."""


class _Kept(RequestReader):
    """Keeps what the gateway's reader tells of, and closes where the gateway's connection would."""

    def __init__(self) -> None:
        super().__init__(cast("Bounded", SimpleNamespace(limits=_LIMITS)))
        self.kept = Reading()

    def begin_request(self) -> Exchange:
        return Exchange()  # nothing is answered

    def take_head(self, exchange: Exchange) -> None:
        pass

    def take_request(self, exchange: Exchange) -> None:
        reading = self.kept
        if reading.is_last:
            return
        if exchange.refusal is None:
            reading.messages.append(_plain(exchange))
            reading.is_last = not exchange.keep_alive
        else:
            reading.refusal, reading.is_last = exchange.refusal.message, True

    def refuse(self, error: RefusedError) -> None:
        if not self.kept.is_last:
            self.kept.refusal = error.message


def _plain(exchange: Exchange) -> Message:
    target = f"{exchange.path}?{exchange.query}" if exchange.query else exchange.path
    headers = _normalise(exchange.headers)
    # The version is not kept: whether the answer may come in chunks is.
    return Message(exchange.method, target, "1.1" if exchange._chunked else "1.0", headers, exchange.body)


def _normalise(headers: dict[str, str]) -> dict[str, str]:
    if "transfer-encoding" in headers:
        headers = {**headers, "transfer-encoding": headers["transfer-encoding"].lower()}
    return headers


def read_here(pieces: Iterable[bytes]) -> Reading:
    """Return what the gateway's reader makes of a stream that comes in these pieces."""
    reader = _Kept()
    for piece in pieces:
        reader.read(piece)
    return reader.kept


def read_there(stream: bytes) -> Reading:
    """Return what h11 makes of it, all at once; each request is answered as soon as it is whole."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 16)
    reading = Reading()
    connection.receive_data(stream)
    try:
        while _read_one(connection, reading):
            pass
    except h11.RemoteProtocolError as error:
        reading.refusal = str(error)
    return reading


def _read_one(connection: h11.Connection, reading: Reading) -> bool:
    request = connection.next_event()
    if not isinstance(request, h11.Request):
        return False
    pieces: list[bytes] = []
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        if not isinstance(event, h11.Data):
            return False
        pieces.append(event.data)
    reading.messages.append(_plain_h11(request, b"".join(pieces)))
    connection.send(_FINISHED)
    connection.send(h11.EndOfMessage())
    reading.is_last = connection.our_state is not h11.DONE
    if not reading.is_last:
        connection.start_next_cycle()
    return not reading.is_last


def _plain_h11(request: h11.Request, body: bytes) -> Message:
    method, target, version = (
        part.decode("latin-1") for part in (request.method, request.target, request.http_version)
    )
    headers: dict[str, str] = {}
    for raw, value in request.headers:
        name, text = raw.decode("latin-1"), value.decode("latin-1")
        headers[name] = f"{headers[name]}, {text}" if name in headers else text
    # A query that is empty is not told from none here.
    plain = target.removesuffix("?") if target.count("?") == 1 else target
    return Message(method, plain, version, _normalise(headers), body)


def compare(here: Reading, there: Reading) -> str:
    """Return how they disagree, and nothing where they do not.

    The gateway may take less than h11, never more, and what both take must be the same. A connection that the gateway
    closes early says nothing of what h11 would read further on.
    """
    for mine, theirs in zip(here.messages, there.messages, strict=False):
        if mine != theirs:
            return _name_difference(mine, theirs)
    if len(here.messages) > len(there.messages):
        return f"taken here, refused there: {there.refusal or 'incomplete'}"
    if len(here.messages) < len(there.messages) and not here.refusal and not here.is_last:
        return "still incomplete here, whole there"
    return ""


def name_lenience(problem: str) -> str:
    """Return which of :data:`SAFE` a disagreement is; nothing where it is none of them."""
    reason = problem.removeprefix("taken here, refused there: ")
    return next((name for name, pattern in SAFE.items() if re.match(pattern, reason)), "")


def _name_difference(mine: Message, theirs: Message) -> str:
    names = [name for name in Message.__slots__ if getattr(mine, name) != getattr(theirs, name)]
    return f"not the same: {', '.join(names)}"
