"""When a request that was sent away is sent again. No I/O: both clients ask here.

It is sent again where the server says that it did not begin it, with 429 or 503, or where nobody listened: what has
begun may have done its work. The wait is as long as the server asks for with ``Retry-After``; otherwise half a second
at most the first time, then twice as long each time, and less by chance, so that clients do not come back together.
"""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llcuda.transport import Deadline

__all__ = ["Retries", "parse_retry_after"]

_SENT_AWAY = frozenset({429, 503})
_FIRST_WAIT = 0.5
_LONGEST_WAIT = 8.0
_MAX_DIGITS = 9


class Retries:
    """The waits of one request, all of them within its deadline."""

    __slots__ = ("_deadline", "_left", "_wait")

    def __init__(self, max_retries: int, *, deadline: Deadline) -> None:
        """Begin with the first attempt."""
        self._left = max_retries
        self._deadline = deadline
        self._wait = _FIRST_WAIT

    def after_answer(self, status: int, headers: Mapping[str, str]) -> float | None:
        """Return how many seconds to wait after an answer, None if it is the one to give back."""
        if status not in _SENT_AWAY or not self._left:
            return None
        return self._take(parse_retry_after(headers.get("retry-after"), now=time()))

    def after_refusal(self) -> float | None:
        """Return how many seconds to wait after a connection was refused, None if that is the error to raise."""
        return self._take(None) if self._left else None

    def _take(self, asked: float | None) -> float | None:
        seconds = self._back_off() if asked is None else asked
        if seconds >= self._deadline.left():
            return None
        self._left -= 1
        return seconds

    def _back_off(self) -> float:
        from random import uniform  # noqa: PLC0415 - most programs never wait

        longest = self._wait
        self._wait = min(2 * longest, _LONGEST_WAIT)
        return uniform(longest / 2, longest)  # noqa: S311 - nothing is to be kept secret


def parse_retry_after(value: str | None, *, now: float) -> float | None:
    """Return the seconds that a ``Retry-After`` asks for: it has them, or a date (RFC 9110, 10.2.3). None for neither.

    ``now`` is the time of day in seconds since 1970.
    """
    text = (value or "").strip()
    if text.isascii() and text.isdecimal():
        return float(text[:_MAX_DIGITS]) if len(text) <= _MAX_DIGITS else float(10**_MAX_DIGITS)
    return _parse_date(text, now=now) if text else None


def _parse_date(text: str, *, now: float) -> float | None:
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - few servers send a date

    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
