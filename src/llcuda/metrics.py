"""What an engine's requests took: counts, tokens, latencies."""

from __future__ import annotations

from collections import deque
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from llcuda.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["MAX_SAMPLES", "RequestMetrics", "get_percentile", "summarize"]

MAX_SAMPLES = 10_000


class Measured(Protocol):
    """What a result has to say to be recorded; an InferResult does."""

    @property
    def latency_ms(self) -> float: ...
    @property
    def time_to_first_token_ms(self) -> float | None: ...
    @property
    def tokens_per_sec(self) -> float: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def tokens_generated(self) -> int: ...
    @property
    def draft_tokens(self) -> int: ...
    @property
    def draft_tokens_accepted(self) -> int: ...


def get_percentile(ordered: Sequence[float], percent: float) -> float | None:
    """Return the percentile of values in ascending order, None if there are none.

    Between two values it is interpolated linearly, the lowest being 0 % and the highest 100 %: numpy's default, and
    ``statistics.quantiles`` with ``method="inclusive"``. Raises UsageError for a percentage outside 0 to 100.
    """
    if not 0 <= percent <= 100:  # noqa: PLR2004
        raise UsageError(f"percent={percent} is not between 0 and 100")
    if not ordered:
        return None
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    lower, upper = ordered[below], ordered[min(below + 1, len(ordered) - 1)]
    return lower + (upper - lower) * (place - below)


def summarize(values: Iterable[float]) -> dict[str, float | None]:
    """Return mean, min, max and the 50th, 95th and 99th percentile; each None if there are no values."""
    ordered = sorted(values)
    return {
        "mean": sum(ordered) / len(ordered) if ordered else None,
        "min": ordered[0] if ordered else None,
        "max": ordered[-1] if ordered else None,
        "p50": get_percentile(ordered, 50),
        "p95": get_percentile(ordered, 95),
        "p99": get_percentile(ordered, 99),
    }


class RequestMetrics:
    """Count requests and tokens, and keep the timings of the last 10,000 requests. Threads may share one.

    Counts are of everything since the start or the last ``reset``; distributions are of the last 10,000 requests that
    succeeded, so that memory is bounded (under 1 MB) and a long-lived engine shows how it does now.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._clear()

    def record(self, result: Measured) -> None:
        """Count a request that succeeded."""
        with self._lock:
            self._requests += 1
            self._prompt_tokens += result.prompt_tokens
            self._tokens_generated += result.tokens_generated
            self._draft_tokens += result.draft_tokens
            self._draft_tokens_accepted += result.draft_tokens_accepted
            self._latencies.append(result.latency_ms)
            if result.time_to_first_token_ms is not None:
                self._first_tokens.append(result.time_to_first_token_ms)
            if result.tokens_generated:
                self._rates.append(result.tokens_per_sec)

    def record_failure(self) -> None:
        """Count a request that failed."""
        with self._lock:
            self._requests += 1
            self._failures += 1

    def snapshot(self) -> dict[str, Any]:
        """Return what was measured.

        ``requests`` (``failures`` among them), ``prompt_tokens``, ``tokens_generated``; ``draft_tokens`` and those of
        them that were accepted, in number and as a share (``draft_acceptance``, None if none was drafted); and for
        each of ``latency_ms``, ``time_to_first_token_ms`` and ``tokens_per_sec`` what ``summarize`` makes of it. All of
        it can be written as JSON, and is of one moment.
        """
        with self._lock:
            drafted, accepted = self._draft_tokens, self._draft_tokens_accepted
            counts = {
                "requests": self._requests,
                "failures": self._failures,
                "prompt_tokens": self._prompt_tokens,
                "tokens_generated": self._tokens_generated,
                "draft_tokens": drafted,
                "draft_tokens_accepted": accepted,
                "draft_acceptance": accepted / drafted if drafted else None,
            }
            samples = {
                "latency_ms": list(self._latencies),
                "time_to_first_token_ms": list(self._first_tokens),
                "tokens_per_sec": list(self._rates),
            }
        # Sorting 30,000 numbers takes milliseconds: not under the lock that every request takes.
        return counts | {name: summarize(values) for name, values in samples.items()}

    def reset(self) -> None:
        """Forget everything."""
        with self._lock:
            self._clear()

    def _clear(self) -> None:
        self._requests = self._failures = self._prompt_tokens = self._tokens_generated = 0
        self._draft_tokens = self._draft_tokens_accepted = 0
        self._latencies: deque[float] = deque(maxlen=MAX_SAMPLES)
        self._first_tokens: deque[float] = deque(maxlen=MAX_SAMPLES)
        self._rates: deque[float] = deque(maxlen=MAX_SAMPLES)
