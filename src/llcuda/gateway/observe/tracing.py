"""A trace of each request that has ended, sent to an OpenTelemetry collector: never what was asked or answered.

It is sent on a thread of its own: a collector that is slow or dead loses spans only.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from logging import LogRecord, getLogger
from threading import Thread
from time import monotonic
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from llcuda import __version__
from llcuda.fleet.timeouts import until
from llcuda.gateway.http.routes import ROUTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Span

    from llcuda.gateway.http.exchange import Exchange

__all__ = ["Tracer"]

_TRACES = "/v1/traces"  # what OTLP adds to the address of a collector
_CLOSE_SECONDS = 3.0
_SERVER_ERROR = 500
_MAX_TEXT = 256
"""Characters of what a client has chosen; whole requests do not belong into a trace."""
_SHORTEST_WAIT = 0.001
"""Seconds in the queue that are worth a span: a turn that comes at once takes some microseconds too."""
_ENDPOINTS = {route.path: route.endpoint for route in ROUTES.values()}
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
class _Span:
    """One span; times are of the monotonic clock."""

    name: str
    start: float
    end: float
    attributes: dict[str, str | int | float] = field(default_factory=dict)
    is_error: bool = False


class Tracer:
    """Makes the spans of requests that have ended.

    What OpenTelemetry's own variables say holds: ``OTEL_EXPORTER_OTLP_HEADERS``, ``OTEL_SERVICE_NAME``,
    ``OTEL_TRACES_SAMPLER``, ``OTEL_BSP_MAX_QUEUE_SIZE`` and the others.
    """

    def __init__(self, endpoint: str, *, scheme: str) -> None:
        """Send to the collector at ``endpoint``; ``scheme`` is what the gateway answers."""
        self._scheme = scheme
        self._exporter = _Exporter(endpoint)
        self._provider = TracerProvider(resource=_describe_service(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("llcuda.gateway", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def record(self, exchange: Exchange) -> None:
        """Take a request that has ended; it continues the trace of the client, if it named one."""
        now = monotonic()
        epoch = time.time_ns() - int(now * 1e9)
        parent = self._propagator.extract(exchange.headers)
        facts = _describe_request(exchange, now)
        root = self._begin(facts, epoch, parent, kind=SpanKind.SERVER)
        root.set_attribute("url.scheme", self._scheme)
        if root.is_recording():
            within = set_span_in_context(root)
            for part in _describe_parts(exchange, now):
                self._begin(part, epoch, within).end(epoch + int(part.end * 1e9))
        root.end(epoch + int(now * 1e9))

    async def close(self) -> None:
        """Send what is left, for a few seconds at most."""
        # A thread of the loop's pool would hold up the end of the process for as long as the collector does.
        thread = Thread(target=self._provider.shutdown, name="llcuda-traces-end", daemon=True)
        thread.start()
        await until(lambda: not thread.is_alive(), seconds=_CLOSE_SECONDS)
        if thread.is_alive():
            self._exporter.shutdown()

    def _begin(self, facts: _Span, epoch: int, parent: Context, *, kind: SpanKind = SpanKind.INTERNAL) -> Span:
        start = epoch + int(facts.start * 1e9)
        span = self._tracer.start_span(
            facts.name, context=parent, kind=kind, attributes=facts.attributes, start_time=start
        )
        if facts.is_error:
            span.set_status(StatusCode.ERROR)
        return span


class _Exporter(OTLPSpanExporter):
    """Says in one line that a collector takes nothing, once until it does again."""

    def __init__(self, endpoint: str) -> None:
        self._address = endpoint
        self._has_failed = self._is_closed = False
        # With each batch that fails it would log several lines, some of them with a traceback.
        getLogger(OTLPSpanExporter.__module__).addFilter(_drop)
        super().__init__(endpoint.rstrip("/") + _TRACES)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch."""
        result = super().export(spans)
        has_failed = result is not SpanExportResult.SUCCESS
        if has_failed and not self._has_failed:
            getLogger("llcuda").warning("the collector at %s takes no traces: they are lost", self._address)
        elif self._has_failed and not has_failed:
            getLogger("llcuda").warning("the collector at %s takes traces again", self._address)
        self._has_failed = has_failed
        return result

    def shutdown(self) -> None:
        """End a batch that is under way, too."""
        if not self._is_closed:
            self._is_closed = True
            super().shutdown()  # type: ignore[no-untyped-call]


def _drop(_record: LogRecord) -> bool:
    return False


def _describe_service() -> Resource:
    given = OTELResourceDetector().detect().attributes
    return Resource.create({"service.name": "llcuda", "service.version": __version__, **given})


def _describe_request(exchange: Exchange, end: float) -> _Span:
    """Return the span of the whole request, by OpenTelemetry's conventions for HTTP servers and for generative AI."""
    route = exchange.path if exchange.path in _ENDPOINTS else ""
    method = exchange.method or "HTTP"
    attributes = {**_describe_http(exchange, route), **_describe_model(exchange)}
    statuses = (exchange.status, exchange.refusal.status if exchange.refusal else 0)
    return _Span(
        f"{method} {route}".rstrip(),
        exchange.arrived,
        end,
        # An attribute that says nothing is left out; a status of 0 is that of a client that has gone before.
        {name: _cut(value) for name, value in attributes.items() if value not in {"", 0}},
        # What is the client's fault is no error of a server, by the conventions.
        is_error=max(statuses) >= _SERVER_ERROR,
    )


def _describe_parts(exchange: Exchange, end: float) -> list[_Span]:
    """Return the spans within it: the wait for the turn, the prompt, and the answer, those of them that it came to."""
    queued, turn, first = exchange.queued_at, exchange.turn_at, exchange.first_at
    # One that waits for a second worker has had its turn with the first.
    stop = queued if turn < queued else end
    waited_until = end if turn < queued else turn
    parts = []
    if queued and waited_until - queued >= _SHORTEST_WAIT:
        parts.append(_Span("queue", queued, waited_until))
    if turn and first >= turn:
        parts += [_Span("prefill", turn, first), _Span("decode", first, stop)]
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
    operation = _OPERATIONS.get(_ENDPOINTS.get(exchange.path, ""), "")
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
