"""What a gateway has counted, and its last two minutes: tokens, the time to the first one, and who waits."""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llcuda.gateway.observe.gateway_metrics import GatewayMetrics

__all__ = ["Figures", "History", "TokenCount", "find_quantile", "read_figures"]

_SECONDS = 120
_WINDOW = 10
"""Seconds whose requests make one point of the time to the first token: one second alone has seldom any."""
_LONG_WINDOW = 60
_STEADY = 3
"""Seconds of which the figure beside the chart is the mean."""
_P50, _P95 = 0.5, 0.95
_TOTALS = ("prompt_tokens", "completion_tokens", "retries", "cancelled")


@dataclass(slots=True)
class Figures:
    """The counters of a gateway at one moment."""

    requests: Counter[str] = field(default_factory=Counter)
    """Requests to models, by the status that was answered."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Requests of any kind that were sent away, by the reason."""
    totals: Counter[str] = field(default_factory=Counter)
    """``prompt_tokens``, ``completion_tokens``, ``retries`` and ``cancelled``; tokens count when a request ends."""
    pieces: int = 0
    """Pieces of streams after their first: nearly one a token, counted while they come."""
    first_tokens: dict[float, int] = field(default_factory=dict)
    """Requests by the seconds to their first token: how many took at most so long, the last bound infinite."""


def read_figures(metrics: GatewayMetrics) -> Figures:
    """Return what ``metrics`` has counted until now."""
    requests: Counter[str] = Counter()
    for (_, model, status), number in metrics.requests.counts.items():
        if model:  # what the gateway answers itself names none: this page's own questions, for one
            requests[status] += int(number)
    return Figures(
        requests=requests,
        rejected=Counter({reason: int(number) for (reason,), number in metrics.rejected.counts.items()}),
        totals=Counter({name: int(getattr(metrics, name).counts[()]) for name in _TOTALS}),
        pieces=metrics.intervals.read()[math.inf],
        first_tokens=metrics.first_token_seconds.read(),
    )


def find_quantile(share: float, before: Mapping[float, int], after: Mapping[float, int]) -> float | None:
    """Return the seconds within which ``share`` of the requests between two readings had their first token.

    As Prometheus does, requests are taken to be spread evenly between the two bounds where it lies, and what lies
    beyond the last bound counts as that. None if there were no requests.
    """
    counts = {bound: after[bound] - before.get(bound, 0) for bound in sorted(after)}
    wanted = share * counts.get(math.inf, 0)
    if not wanted:
        return None
    low = below = 0.0
    for bound, count in counts.items():
        if count >= wanted:
            return low if math.isinf(bound) else low + (bound - low) * (wanted - below) / (count - below)
        low, below = bound, count
    return low


@dataclass(slots=True)
class TokenCount:
    """How many tokens were made, also while answers still come.

    Tokens are counted at the end of an answer, pieces of streams while they come. What the ended answers have beyond
    the pieces is added when it is more than ever before: an answer that was not streamed, or one whose pieces had
    several tokens. While nothing is under way it begins anew, because streams that broke off leave pieces behind.
    """

    total: int = 0
    _pieces: int = 0
    _lead: int = 0

    def advance(self, *, pieces: int, tokens: int, is_idle: bool) -> int:
        """Take the two counters as they are now, and return how many tokens have come since the last time."""
        lead = tokens - pieces
        more = pieces - self._pieces + max(0, lead - self._lead)
        self._pieces = pieces
        self._lead = lead if is_idle else max(self._lead, lead)
        self.total += more
        return more


@dataclass(frozen=True, slots=True)
class _Second:
    tokens_per_second: float
    first_tokens: Mapping[float, int]
    first_token_ms: float | None
    busy: int
    waiting: int


@dataclass(slots=True)
class History:
    """A ring of so many seconds."""

    _ring: deque[_Second] = field(default_factory=lambda: deque(maxlen=_SECONDS))
    _count: TokenCount = field(default_factory=TokenCount)
    _last: float | None = None

    def note(self, figures: Figures, *, now: float, busy: int, waiting: int) -> None:
        """Take what is counted at the time ``now``, and how many requests are answered and wait."""
        tokens = figures.totals["completion_tokens"]
        more = self._count.advance(pieces=figures.pieces, tokens=tokens, is_idle=not busy and not waiting)
        passed = now - self._last if self._last is not None else 0.0
        rate = more / passed if passed > 0 else 0.0
        half = find_quantile(_P50, self._first_tokens_before(_WINDOW), figures.first_tokens)
        self._ring.append(_Second(rate, figures.first_tokens, _to_ms(half), busy, waiting))
        self._last = now

    def to_plain(self) -> dict[str, Any]:
        """Return it as the page shows it: the last second is the last of each list."""
        latest = self._ring[-1].first_tokens if self._ring else {}
        before = self._first_tokens_before(_LONG_WINDOW + 1)
        steady = [second.tokens_per_second for second in self._ring][-_STEADY:]
        return {
            "tokens": self._count.total,
            "tokens_per_second": round(sum(steady) / len(steady), 1) if steady else 0.0,
            "first_token_p50_ms": _to_ms(find_quantile(_P50, before, latest)),
            "first_token_p95_ms": _to_ms(find_quantile(_P95, before, latest)),
            "seconds": {
                "tokens_per_second": [round(second.tokens_per_second, 1) for second in self._ring],
                "first_token_ms": [second.first_token_ms for second in self._ring],
                "busy": [second.busy for second in self._ring],
                "waiting": [second.waiting for second in self._ring],
            },
        }

    def _first_tokens_before(self, seconds: int) -> Mapping[float, int]:
        """Return the counts as they were so many readings ago; none if there are not so many."""
        return self._ring[-seconds].first_tokens if len(self._ring) >= seconds else {}


def _to_ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 1)
