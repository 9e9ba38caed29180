"""What a trace says of a request that has ended: its parts in time, and never what was asked or answered."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llcuda.gateway.http.endpoints import ENDPOINTS
from llcuda.gateway.http.routes import ROUTES

if TYPE_CHECKING:
    from llcuda.gateway.http.exchange import Exchange

__all__ = ["SpanFacts", "describe_parts", "describe_request"]

_SERVER_ERROR = 500
_MAX_TEXT = 256
"""Characters of what a client has chosen; whole requests do not belong into a trace."""
_SHORTEST_WAIT = 0.001
"""Seconds in the queue that are worth a span: a turn that comes at once takes some microseconds too."""
_OPERATIONS = {
    "chat": "chat",
    "responses": "chat",
    "messages": "chat",
    "completions": "text_completion",
    "completion": "text_completion",
    "infill": "text_completion",
    "embeddings": "embeddings",
    "embedding": "embeddings",
}
"""The names of OpenTelemetry's conventions for generative AI; what has none there has none here."""


@dataclass(frozen=True, slots=True)
class SpanFacts:
    """One span; times are of the monotonic clock."""

    name: str
    start: float
    end: float
    attributes: dict[str, str | int | float] = field(default_factory=dict)
    is_error: bool = False


def describe_request(exchange: Exchange, end: float) -> SpanFacts:
    """Return the span of the whole request, by OpenTelemetry's conventions for HTTP servers and for generative AI."""
    route = exchange.path if exchange.path in ROUTES else ""
    method = exchange.method or "HTTP"
    attributes = {**_describe_http(exchange, route), **_describe_model(exchange)}
    statuses = (exchange.status, exchange.refusal.status if exchange.refusal else 0)
    return SpanFacts(
        f"{method} {route}".rstrip(),
        exchange.arrived,
        end,
        # An attribute that says nothing is left out; a status of 0 is that of a client that has gone before.
        {name: _cut(value) for name, value in attributes.items() if value not in {"", 0}},
        # What is the client's fault is no error of a server, by the conventions.
        is_error=max(statuses) >= _SERVER_ERROR,
    )


def describe_parts(exchange: Exchange, end: float) -> list[SpanFacts]:
    """Return the spans within it: the wait for the turn, the prompt, and the answer, as far as each was come to."""
    queued, turn, first = exchange.queued_at, exchange.turn_at, exchange.first_at
    # One that waits for a second worker has had its turn with the first.
    stop = queued if turn < queued else end
    waited_until = end if turn < queued else turn
    parts = []
    if queued and waited_until - queued >= _SHORTEST_WAIT:
        parts.append(SpanFacts("queue", queued, waited_until))
    if turn and first >= turn:
        parts += [SpanFacts("prefill", turn, first), SpanFacts("decode", first, stop)]
    return parts


def _describe_http(exchange: Exchange, route: str) -> dict[str, str | int | float]:
    refusal = exchange.refusal
    failed = refusal is not None or exchange.status >= _SERVER_ERROR
    return {
        "http.request.method": exchange.method or "_OTHER",
        "http.route": route,
        "url.path": exchange.asked_path,
        "http.response.status_code": exchange.status,
        "http.request.body.size": exchange.body_bytes,
        "error.type": ((refusal and refusal.code) or str(exchange.status)) if failed else "",
        "llcuda.request.id": exchange.request_id,
        "llcuda.key": exchange.caller.name if exchange.caller else "",
    }


def _describe_model(exchange: Exchange) -> dict[str, str | int | float]:
    operation = _OPERATIONS.get(ENDPOINTS.get(exchange.path, ""), "")
    prompt, completion = exchange.usage
    return {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "llama.cpp" if operation else "",
        "gen_ai.request.model": exchange.model,
        "gen_ai.usage.input_tokens": prompt,
        "gen_ai.usage.output_tokens": completion,
        "llcuda.worker": exchange.worker,
        "llcuda.queue.seconds": exchange.queue_seconds,
    }


def _cut(value: str | float) -> str | int | float:
    return value[:_MAX_TEXT] if isinstance(value, str) else value
