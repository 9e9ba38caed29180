"""How far a download has come: what is asked for next, and what an answer means. Nothing here does I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_MAX_DIGITS = 18
"""No file is larger; thousands of digits are more than int() takes."""
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
_PARTIAL, _RANGE_NOT_SATISFIABLE = 206, 416


@dataclass(frozen=True, slots=True)
class DownloadProgress:
    """The bytes that are on the disk, and what the server said of the whole file."""

    received: int = 0
    total: int | None = None
    validator: str | None = None
    """A strong ETag, or a date of last change: what must be the same for a resumed file to be one file."""


@dataclass(frozen=True, slots=True)
class ServerAnswer:
    """The parts of a response that matter, its header names in small letters."""

    status: int
    headers: dict[str, str]

    @property
    def validator(self) -> str | None:
        """The strong ETag, else the date of last change."""
        tag = self.headers.get("etag", "")
        return tag if tag and not tag.startswith("W/") else self.headers.get("last-modified")

    @property
    def length(self) -> int | None:
        """The Content-Length in bytes."""
        text = self.headers.get("content-length", "")
        return int(text) if text.isdecimal() and len(text) <= _MAX_DIGITS else None


class Action(Enum):
    """What to do with an answer."""

    APPEND = "append"
    RESTART = "restart"
    AGAIN = "ask again for all of it"
    DONE = "done"
    RETRY = "retry"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Step:
    """What follows from an answer, and the progress from there on."""

    action: Action
    progress: DownloadProgress
    reason: str = ""


def request_headers(progress: DownloadProgress) -> dict[str, str]:
    """Return the headers that ask for the rest, if it is certain to be the rest of the same file."""
    headers = {"Accept-Encoding": "identity"}
    if progress.received and progress.validator:
        headers |= {"Range": f"bytes={progress.received}-", "If-Range": progress.validator}
    return headers


def decide(answer: ServerAnswer, progress: DownloadProgress) -> Step:
    """Return what to do with the answer to a request that was made with ``request_headers(progress)``."""
    if answer.headers.get("content-encoding", "identity") != "identity":
        return Step(Action.FAIL, progress, f"the server sends it encoded as {answer.headers['content-encoding']}")
    if answer.status in {200, _PARTIAL} and answer.length is None and "content-length" in answer.headers:
        return Step(Action.FAIL, progress, f"the server says that it has {answer.headers['content-length'][:40]} bytes")
    if answer.status == 200:  # noqa: PLR2004 - OK
        return Step(Action.RESTART, DownloadProgress(0, answer.length, answer.validator))
    if answer.status == _PARTIAL:
        return _decide_partial(answer, progress)
    if answer.status == _RANGE_NOT_SATISFIABLE and progress.received:
        complete = progress.total == progress.received
        return Step(Action.DONE, progress) if complete else Step(Action.AGAIN, DownloadProgress())
    return Step(Action.RETRY if answer.status in _RETRIED else Action.FAIL, progress, f"HTTP {answer.status}")


def _decide_partial(answer: ServerAnswer, progress: DownloadProgress) -> Step:
    match = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
    if not match or int(match[1]) != progress.received or not progress.received:
        return Step(Action.AGAIN, DownloadProgress())
    total = None if match[3] == "*" else int(match[3])
    grown = None not in {total, progress.total} and total != progress.total
    if grown or answer.validator not in {None, progress.validator}:
        return Step(Action.AGAIN, DownloadProgress())
    return Step(Action.APPEND, replace(progress, total=total or progress.total))
