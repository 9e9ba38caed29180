"""One request of a client, by whichever way it came, and its answer."""

from __future__ import annotations

import json
import os
import re
from codecs import BOM_UTF8
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.http.error_envelopes import write_envelope

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llcuda.gateway.http.access import Caller
    from llcuda.gateway.http.routes import Route

__all__ = ["Exchange", "Source"]

_MAX_TARGET = 1024
_MAX_ID = 64
_LENGTH = re.compile("[0-9]{1,20}")
# A line without a version, which llhttp calls 0.9, would have headers and a body for us alone.
_VERSIONS = frozenset({"1.0", "1.1"})
_PREFIX = os.urandom(6).hex()
_numbers = count(1)


class Source(Protocol):
    """What an answer comes from, and waits for a client that is slow."""

    def pause_reading(self) -> None:
        """Take nothing more from it."""

    def resume_reading(self) -> None:
        """Go on."""


class Exchange:
    """One request, and what has been written of its answer.

    An answer is one :meth:`respond`, or :meth:`start_stream` and some :meth:`write`, the last of which says so. A
    subclass says where it is written.
    """

    __slots__ = (
        "_body", "_chunked", "_source", "arrived", "asked_path", "body_bytes",
        "bytes_out", "caller", "content_length", "extra_headers", "finished", "first_at", "has_body",
        "head_complete", "header_bytes", "header_count", "headers", "ignored_fields", "is_late", "is_untimed",
        "keep_alive", "keeps_body", "method", "model", "path", "query", "queue_seconds", "queued_at", "refusal",
        "request_id", "route", "started", "status", "turn_at", "usage", "worker",
    )  # fmt: skip

    def __init__(self) -> None:
        # One piece: a body that comes in two million chunks would otherwise be kept in as many objects.
        self._body = bytearray()
        self._source: Source | None = None
        self._chunked = True
        self.method = self.path = self.query = self.request_id = ""
        self.asked_path = ""
        """As the client wrote it; ``path`` is the address that answers."""
        self.headers: dict[str, str] = {}
        self.header_count = self.header_bytes = 0
        self.head_complete = self.has_body = False
        self.content_length = self.body_bytes = self.bytes_out = 0
        self.arrived = monotonic()
        self.keep_alive = self.keeps_body = True
        self.extra_headers = ""
        """Header lines that every answer to this request has: those for an allowed origin."""
        self.status = 0
        self.started = self.finished = self.is_late = False
        self.is_untimed = False
        """Whether the answer may take longer than ``request_timeout``."""
        self.refusal: RefusedError | None = None
        """What it was refused with, without the frames that it passed through."""
        self.route: Route | None = None
        self.caller: Caller | None = None
        # What is known at its end, for whoever counts.
        self.model = self.worker = ""
        self.ignored_fields = 0
        self.usage = (0, 0)
        self.queue_seconds = 0.0
        # Of the monotonic clock, and of the last worker that was asked; 0 if it was not come to.
        self.queued_at = self.turn_at = self.first_at = 0.0

    def read_head(self, method: str, target: str, version: str) -> None:
        """Take the request line."""
        self.head_complete = True
        self.method = method
        self.asked_path, _, self.query = target.partition("?")
        self.path = self.asked_path
        self._chunked = version == "1.1"
        self.keep_alive = self._chunked
        length = self.headers.get("content-length", "")
        # llhttp takes what fits into 64 bits, with any number of zeros before it; Python reads 4,300 digits at most.
        self.content_length = int(length) if _LENGTH.fullmatch(length) else 0
        self.has_body = self.content_length > 0 or "transfer-encoding" in self.headers
        given = self.headers.get("x-request-id", "")
        is_usable = 0 < len(given) <= _MAX_ID and given.isascii() and given.isprintable()
        self.request_id = given if is_usable else f"{_PREFIX}{next(_numbers):x}"

    def check_head(self, version: str) -> None:
        """Raise RefusedError for a request line that is none of ours, whatever it asks for."""
        if version not in _VERSIONS:
            raise RefusedError(505, "the request is not of HTTP/1.0 or HTTP/1.1", code="bad_request", close=True)
        if len(self.path) + len(self.query) > _MAX_TARGET:
            raise RefusedError(414, "the target is too long", code="bad_request", close=True)
        if not _LENGTH.fullmatch(self.headers.get("content-length", "0")):
            raise RefusedError(400, "the Content-Length is no number", code="bad_request", close=True)
        if not self.path.startswith("/"):
            raise RefusedError(400, "the target is not a path", code="bad_request", close=True)
        if "host" not in self.headers and self._chunked:
            raise RefusedError(400, "there is no Host header", code="bad_request", close=True)
        if self.headers.get("transfer-encoding", "chunked").lower() != "chunked":
            raise RefusedError(501, "there is a transfer encoding other than chunked", code="bad_request", close=True)
        if self.headers.get("content-encoding", "identity").lower() != "identity":
            raise RefusedError(415, "the body is compressed; send it as it is", code="bad_request", close=True)

    def add_body(self, data: bytes) -> None:
        """Take a piece of the body."""
        if self.keeps_body:
            self._body += data
        self.body_bytes += len(data)

    @property
    def body(self) -> bytes:
        """The body as it came, but for the mark that some of Windows' programs begin a text with."""
        return bytes(self._body).removeprefix(BOM_UTF8)

    def drop_body(self) -> None:
        """Forget the body, once it has been passed on."""
        self._body = bytearray()

    def respond(
        self, status: int, body: bytes, *, content_type: str = "application/json", headers: Iterable[str] = ()
    ) -> None:
        """Write a whole answer; ``headers`` are lines without their ends."""
        raise NotImplementedError

    def respond_json(self, value: object, *, status: int = 200, headers: Iterable[str] = ()) -> None:
        """Write a whole answer of JSON."""
        self.respond(status, json.dumps(value, ensure_ascii=False).encode(), headers=headers)

    def refuse(self, error: RefusedError) -> None:
        """Write an error."""
        lines = [f"{name}: {value}" for name, value in error.headers.items()]
        if error.close:
            self.keep_alive = False
        endpoint = self.route.endpoint if self.route else ""
        self.respond(error.status, write_envelope(error, endpoint), headers=lines)

    def start_stream(self, status: int, content_type: str) -> None:
        """Begin an answer that comes in pieces; nothing is sent before the first."""
        raise NotImplementedError

    def start_file(self, content_type: str, *, length: int, headers: Iterable[str] = ()) -> None:
        """Begin an answer of so many bytes that comes in pieces; the connection ends with it, even if it is cut."""
        raise NotImplementedError

    def write(self, data: bytes, *, is_last: bool = False) -> None:
        """Write a piece of a stream; the head goes with the first, the end with the last."""
        raise NotImplementedError

    @property
    def is_gone(self) -> bool:
        """Whether the client has gone."""
        raise NotImplementedError

    @property
    def is_slow(self) -> bool:
        """Whether the client does not take what it is sent."""
        raise NotImplementedError

    def follow(self, source: Source | None) -> None:
        """Let ``source`` wait whenever the client is slow; None lets the one before go."""
        if self._source is not None:
            self._source.resume_reading()
        self._source = source
        if source is not None and self.is_slow:
            source.pause_reading()

    def pause(self) -> None:
        """Let the source wait."""
        if self._source is not None:
            self._source.pause_reading()

    def resume(self) -> None:
        """Let the source go on."""
        if self._source is not None:
            self._source.resume_reading()

    @property
    def is_newest(self) -> bool:
        """Whether it is of HTTP/1.1: its answer may have others before it that mean nothing."""
        return self._chunked
