"""Send a request, and send it again if the server sent it away. Both clients do it so.

It is sent again if the server says that it did not begin it, with 429 or 503, or if nobody listened: what has begun may
have done its work. The wait is as long as the server asks for with ``Retry-After``; otherwise half a second at most the
first time, then twice as long each time, and less by chance, so that clients do not come back together.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import time
from typing import TYPE_CHECKING

from llcuda.errors import ConnectionFailedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from llcuda.transport import Deadline
    from llcuda.transport.base_transport import BaseTransport, Handle, Response

_SENT_AWAY = frozenset({429, 503})
_FIRST_WAIT = 0.5
_LONGEST_WAIT = 8.0
_MAX_DIGITS = 9


@dataclass(frozen=True, slots=True)
class Sender:
    """Sends the requests of one client."""

    transport: BaseTransport
    max_retries: int

    async def send(
        self,
        method: str,
        target: str,
        *,
        body: bytes | None,
        deadline: Deadline,
        repeats: bool = True,
        on_begin: Callable[[Handle], object] | None = None,
    ) -> Response:
        """Return the response of the last attempt. ``on_begin`` is given what another thread can end them all with."""
        handle = self.transport.begin()
        if on_begin is not None:
            on_begin(handle)
        left, longest = self.max_retries if repeats else 0, _FIRST_WAIT
        while True:
            try:
                response = await self.transport.exchange(method, target, body=body, deadline=deadline, handle=handle)
            except ConnectionFailedError as error:
                seconds = _choose_wait(None, longest=longest, deadline=deadline) if left and error.refused else None
                if seconds is None:
                    raise
            else:
                asked = response.headers.get("retry-after")
                sent_away = left and response.status in _SENT_AWAY
                seconds = _choose_wait(asked, longest=longest, deadline=deadline) if sent_away else None
                if seconds is None:
                    return response
                response.close()
            left, longest = left - 1, min(2 * longest, _LONGEST_WAIT)
            await self.transport.pause(seconds, handle=handle)


def _choose_wait(asked: str | None, *, longest: float, deadline: Deadline) -> float | None:
    """Return the seconds to wait, None if the deadline comes before."""
    from random import uniform  # noqa: PLC0415 - most programs never wait

    seconds = parse_retry_after(asked, now=time())
    if seconds is None:
        seconds = uniform(longest / 2, longest)  # noqa: S311 - nothing is to be kept secret
    return seconds if seconds < deadline.left() else None


def parse_retry_after(value: str | None, *, now: float) -> float | None:
    """Return the seconds that a ``Retry-After`` asks for: it has them, or a date (RFC 9110, 10.2.3). None for neither.

    ``now`` is the time of day in seconds since 1970.
    """
    text = (value or "").strip()
    if text.isascii() and text.isdecimal():
        return float(text) if len(text) <= _MAX_DIGITS else float(10**_MAX_DIGITS)
    return _parse_date(text, now=now) if text else None


def _parse_date(text: str, *, now: float) -> float | None:
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - few servers send a date

    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
