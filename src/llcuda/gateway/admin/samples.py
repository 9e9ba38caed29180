"""What was seen of single requests of a measurement -> the figures of them all. Values in, values out."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from llcuda.gateway.relay.streamed_answer import read_usage
from llcuda.metrics import get_percentile

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Piece", "Sample", "read_sample", "summarise"]

_EVENT = b"data: "
_TIMINGS = re.compile(rb'"timings":(\{[^{}]*\})')


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes of a stream, and when they came, of the monotonic clock."""

    at: float
    data: bytes


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer; times are seconds."""

    latency: float
    first: float
    """Until the first piece of the answer, the wait for a slot among it."""
    gaps: tuple[float, ...]
    """From each token to the next; tokens that came together share the time since those before."""
    prompt_tokens: int
    completion_tokens: int
    prefill_rate: float | None
    """Tokens a second of the prompt, as llama-server measured it; None where the prompt was in its cache."""
    decode_rate: float | None
    """Tokens a second between the first and the last, by this clock."""


def read_sample(pieces: Sequence[Piece], *, began: float) -> Sample | None:
    """Return what the pieces of a stream of ``/completion`` tell; None where they are no whole answer."""
    ends = b"".join(piece.data for piece in pieces[-4:])
    prompt, completion = read_usage(ends)
    if not pieces or not completion:
        return None
    gaps = _find_gaps(pieces)
    return Sample(
        latency=pieces[-1].at - began,
        first=pieces[0].at - began,
        gaps=gaps,
        prompt_tokens=prompt,
        completion_tokens=completion,
        prefill_rate=_read_prefill(ends),
        decode_rate=len(gaps) / sum(gaps) if sum(gaps) > 0 else None,
    )


def _find_gaps(pieces: Sequence[Piece]) -> tuple[float, ...]:
    gaps: list[float] = []
    for before, piece in pairwise(pieces):
        # The event that ends the stream has no token, and comes with the last one or by itself.
        count = piece.data.count(_EVENT) - piece.data.count(b'"stop":true')
        gaps += [(piece.at - before.at) / count] * count if count else []
    return tuple(gaps)


def _read_prefill(ends: bytes) -> float | None:
    found = _TIMINGS.findall(ends)
    timings: dict[str, Any] = json.loads(found[-1]) if found else {}
    tokens, milliseconds = timings.get("prompt_n", 0), timings.get("prompt_ms", 0)
    return 1000 * tokens / milliseconds if tokens and milliseconds else None


def summarise(samples: Sequence[Sample], *, concurrency: int, seconds: float, errors: int) -> dict[str, Any]:
    """Return the figures of the requests that were answered within ``seconds``, so many at a time."""
    tokens = sum(sample.completion_tokens for sample in samples)
    return {
        "concurrency": concurrency,
        "requests": len(samples),
        "errors": errors,
        "seconds": round(seconds, 3),
        "prompt_tokens": sum(sample.prompt_tokens for sample in samples),
        "completion_tokens": tokens,
        "tokens_per_second": round(tokens / seconds, 1) if samples and seconds else None,
        "prefill_tokens_per_second": _percentile([one.prefill_rate for one in samples], 50),
        "decode_tokens_per_second": _percentile([one.decode_rate for one in samples], 50),
        "ttft_ms": _spread([one.first for one in samples]),
        "inter_token_ms": {"p50": _percentile([1000 * gap for one in samples for gap in one.gaps], 50)},
        "latency_ms": _spread([one.latency for one in samples]),
    }


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    milliseconds = [1000 * value for value in values]
    return {"p50": _percentile(milliseconds, 50), "p95": _percentile(milliseconds, 95)}


def _percentile(values: Sequence[float | None], percent: float) -> float | None:
    found = get_percentile(sorted(value for value in values if value is not None), percent)
    return None if found is None else round(found, 3)
