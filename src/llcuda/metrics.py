"""What an engine's requests took: counts, tokens, latencies."""

from __future__ import annotations

from collections import deque
from threading import Lock
from typing import TYPE_CHECKING, Any

from llcuda.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_SAMPLES = 10_000
_TOKENS = ("prompt_tokens", "tokens_generated", "draft_tokens", "draft_tokens_accepted")
_SAMPLES = ("latency_ms", "time_to_first_token_ms", "tokens_per_sec")


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

    def record(self, result: Any) -> None:
        """Count a request that succeeded; ``result`` is an InferResult, or has its numbers."""
        with self._lock:
            self._counts["requests"] += 1
            for name in _TOKENS:
                self._counts[name] += getattr(result, name)
            for name, samples in self._samples.items():
                value = getattr(result, name)
                if value is not None and (result.tokens_generated or name != "tokens_per_sec"):
                    samples.append(value)

    def record_failure(self) -> None:
        """Count a request that failed."""
        with self._lock:
            self._counts["requests"] += 1
            self._counts["failures"] += 1

    def snapshot(self) -> dict[str, Any]:
        """Return what was measured.

        ``requests`` (``failures`` among them), ``prompt_tokens``, ``tokens_generated``; ``draft_tokens`` and those of
        them that were accepted, in number and as a share (``draft_acceptance``, None if none was drafted); and for
        each of ``latency_ms``, ``time_to_first_token_ms`` and ``tokens_per_sec`` what ``summarize`` makes of it. All of
        it can be written as JSON, and is of one moment.
        """
        with self._lock:
            counts, samples = dict(self._counts), {name: list(values) for name, values in self._samples.items()}
        drafted, accepted = counts["draft_tokens"], counts["draft_tokens_accepted"]
        # Sorting 30,000 numbers takes milliseconds: not under the lock that every request takes.
        summaries = {name: summarize(values) for name, values in samples.items()}
        return {**counts, "draft_acceptance": accepted / drafted if drafted else None, **summaries}

    def reset(self) -> None:
        """Forget everything."""
        with self._lock:
            self._clear()

    def _clear(self) -> None:
        self._counts = dict.fromkeys(("requests", "failures", *_TOKENS), 0)
        self._samples: dict[str, deque[float]] = {name: deque(maxlen=MAX_SAMPLES) for name in _SAMPLES}
