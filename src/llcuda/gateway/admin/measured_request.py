"""A measurement's requests, which go their way as clients' do but never wait in the queue, and the figures of them."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from itertools import pairwise
from time import monotonic
from typing import TYPE_CHECKING, Any

from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.http.access import Caller
from llcuda.gateway.http.exchange import Exchange
from llcuda.gateway.http.routes import ROUTES
from llcuda.gateway.relay.model_request import ModelRequest
from llcuda.gateway.relay.streamed_answer import read_usage
from llcuda.metrics import get_percentile

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llcuda.fleet.served_model import ServedModel
    from llcuda.gateway.observe.gateway_metrics import GatewayMetrics

    _Piece = tuple[float, bytes]
    """When it came, of the monotonic clock, and what it was."""

__all__ = ["LOWEST", "Sample", "measure", "summarise"]

LOWEST = Caller("benchmark", priority=-101)
"""Whose requests leave the queue after everybody's: no key can have that priority."""
_ROUTE = ROUTES["POST", "/completion"]
_OK = 200
_LONGEST = 600.0
_LOOK_INTERVAL = 0.01
_EVENT = b"data: "
_TIMINGS = re.compile(rb'"timings":(\{[^{}]*\})')


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
    """Tokens a second of the prompt, as llama-server measured it; None if the prompt was in its cache."""
    decode_rate: float | None
    """Tokens a second between the first and the last, by this clock."""


async def measure(model: ServedModel, fields: dict[str, Any], *, metrics: GatewayMetrics) -> Sample:
    """Send one request to ``/completion`` and return what was seen of its answer.

    Raises RefusedError if it was not answered, and whatever keeps a model on demand from being started.
    """
    exchange = _Measured(json.dumps({**fields, "stream": True}).encode())
    request = ModelRequest(exchange, _ROUTE, metrics)
    await model.ensure_started()
    await _await_room(model)
    limit = asyncio.get_running_loop().time() + _LONGEST
    job = request.describe(model, deadline=limit)
    while job is not None:
        with await model.admission.acquire(job) as slot:
            await request.send(slot)
        job = await request.judge(slot)
    await request.finish()
    sample = _read_sample(exchange.pieces, began=exchange.arrived) if exchange.status == _OK else None
    if sample is None:
        raise RefusedError(502, exchange.explain(), code="worker_failed")
    return sample


async def _await_room(model: ServedModel) -> None:
    """Return when a slot is free that nobody waits for: the places of the queue are for others."""
    while not model.admission.is_open and any(worker.is_expected for worker in model.workers):  # noqa: ASYNC110 - rare
        await asyncio.sleep(_LOOK_INTERVAL)


class _Measured(Exchange):
    """A request without a connection: what is written is kept, with the time."""

    __slots__ = ("pieces",)
    is_gone = is_slow = False

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.pieces: list[_Piece] = []
        self.method, self.path, self.caller, self.route = _ROUTE.method, _ROUTE.path, LOWEST, _ROUTE
        self.add_body(body)

    def respond(
        self, status: int, body: bytes, *, content_type: str = "application/json", headers: Iterable[str] = ()
    ) -> None:
        """Keep a whole answer: an error."""
        del content_type, headers
        self.status = status
        self.write(body, is_last=True)

    def start_stream(self, status: int, content_type: str) -> None:
        """Begin a stream."""
        del content_type
        self.status = status

    def write(self, data: bytes, *, is_last: bool = False) -> None:
        """Keep a piece of it."""
        self.started, self.finished = True, is_last
        if data:
            self.pieces.append((monotonic(), data))

    def explain(self) -> str:
        """Return what went wrong, from an answer that is an error."""
        data = self.pieces[-1][1] if self.pieces else b""
        try:
            return str(json.loads(data.removeprefix(b"data: "))["error"]["message"])
        except (ValueError, KeyError, TypeError):
            return "the worker's answer is not whole"


def _read_sample(pieces: Sequence[_Piece], *, began: float) -> Sample | None:
    """Return what the pieces of a stream of ``/completion`` tell; None if they are no whole answer."""
    ends = b"".join(data for _, data in pieces[-4:])
    prompt, completion = read_usage(ends)
    if not pieces or not completion:
        return None
    gaps = _find_gaps(pieces)
    return Sample(
        latency=pieces[-1][0] - began,
        first=pieces[0][0] - began,
        gaps=gaps,
        prompt_tokens=prompt,
        completion_tokens=completion,
        prefill_rate=_read_prefill(ends),
        decode_rate=len(gaps) / sum(gaps) if sum(gaps) > 0 else None,
    )


def _find_gaps(pieces: Sequence[_Piece]) -> tuple[float, ...]:
    gaps: list[float] = []
    for (before, _), (at, data) in pairwise(pieces):
        # The event that ends the stream has no token, and comes with the last one or by itself.
        count = data.count(_EVENT) - data.count(b'"stop":true')
        gaps += [(at - before) / count] * count if count else []
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
