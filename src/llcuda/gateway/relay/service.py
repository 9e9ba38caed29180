"""The gateway at work: from a request's head to the line in the audit log, within one event loop."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, defaultdict
from contextlib import contextmanager
from logging import getLogger
from time import monotonic
from typing import TYPE_CHECKING, Any

from llcuda.errors import LlcudaError, UsageError
from llcuda.fleet.dispatch.admission import current_task
from llcuda.fleet.refusals import RefusedError
from llcuda.fleet.served_model import find_model
from llcuda.gateway.http.access import check_content_type, require_admin
from llcuda.gateway.http.error_envelopes import to_refusal
from llcuda.gateway.http.routes import PREFLIGHT, Kind, Who, find_route, resolve_path
from llcuda.gateway.observe.audit_log import AuditRecord
from llcuda.gateway.relay.model_request import ModelRequest, write_error_event

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from llcuda.fleet.served_model import ServedModel
    from llcuda.gateway.config.configuration import GatewayConfig
    from llcuda.gateway.http.access import Access, Caller
    from llcuda.gateway.http.connection import Connection
    from llcuda.gateway.http.exchange import Exchange
    from llcuda.gateway.http.routes import Route
    from llcuda.gateway.observe.audit_log import AuditLog
    from llcuda.gateway.observe.gateway_metrics import GatewayMetrics

__all__ = ["Callers", "GatewayService"]

_CLIENT_GONE = 499  # nginx's status for it, in the log and the metrics only
_READ_BYTES = 64 << 10
_MAX_TIMEOUT = 86400.0


class Callers:
    """The requests that each caller has under way."""

    __slots__ = ("_under_way",)

    def __init__(self) -> None:
        """Start with none."""
        self._under_way: defaultdict[str, set[asyncio.Task[Any]]] = defaultdict(set)

    @contextmanager
    def count(self, caller: Caller | None) -> Iterator[None]:
        """Count the request of the current task within the block. Raises RefusedError if it is one too many."""
        name, maximum = (caller.name, caller.max_in_flight) if caller else ("", None)
        mine = self._under_way[name]
        if maximum is not None and len(mine) >= maximum:
            raise RefusedError(
                429,
                f"this key may have {maximum} requests at a time",
                code="too_many_in_flight",
                headers={"Retry-After": "1"},
            )
        owner = current_task()
        mine.add(owner)
        try:
            yield
        finally:
            self._discard(name, owner)

    def drop_lost(self) -> int:
        """Forget the requests whose tasks have ended, and return how many there were: none, but for a mistake."""
        lost = [(name, task) for name, tasks in self._under_way.items() for task in tasks if task.done()]
        for name, task in lost:
            self._discard(name, task)
        return len(lost)

    def _discard(self, name: str, owner: asyncio.Task[Any]) -> None:
        mine = self._under_way[name]
        mine.discard(owner)
        if not mine:
            del self._under_way[name]

_access = getLogger("llcuda.access")
"""A line for each request, for whoever listens."""


class GatewayService:
    """Answers requests with the models that it is given; it neither starts nor stops any."""

    def __init__(
        self,
        config: GatewayConfig,
        *,
        access: Access,
        models: Mapping[str, ServedModel],
        metrics: GatewayMetrics,
        own: Mapping[str, Callable[[Exchange], Awaitable[None]]],
        audit: AuditLog | None = None,
        trace: Callable[[Exchange], None] | None = None,
    ) -> None:
        """``own`` answers the gateway's own addresses, by their endpoint; ``trace`` is told of each that has ended."""
        self.config = config
        self.limits = config.limits
        self.draining = False
        self.connections: set[Connection] = set()
        self.holding: dict[Connection, None] = {}
        self.buffer = memoryview(bytearray(_READ_BYTES))
        self.metrics = metrics
        self._access = access
        self._models = models
        self._own = own
        self._audit = audit
        self._trace = trace
        self._callers = Callers()
        self._loop = asyncio.get_running_loop()

    def configure(self, config: GatewayConfig, access: Access) -> None:
        """Follow another configuration from the next request on."""
        self.config, self.limits, self._access = config, config.limits, access

    def check_head(self, exchange: Exchange) -> None:
        """Raise RefusedError for a request that is not worth its body."""
        self._access.check_origin(exchange.headers, method=exchange.method)
        is_preflight = exchange.method == "OPTIONS"
        if self.config.allowed_origins:
            lines = self._access.cors_headers(exchange.headers, preflight=is_preflight).items()
            exchange.extra_headers = "".join(f"{name}: {value}\r\n" for name, value in lines)
        exchange.route = route = self._find_route(exchange)
        exchange.keeps_body = route.who is not Who.PUBLIC
        if route.who is not Who.PUBLIC:
            exchange.caller = caller = self._access.authenticate(exchange.headers)
            if route.who is Who.ADMIN:
                require_admin(caller)
        if exchange.has_body:
            check_content_type(exchange.headers, is_lenient=route.endpoint.startswith("ollama"))

    async def handle(self, exchange: Exchange) -> None:
        """Answer a request whose head :meth:`check_head` has let in, whatever happens, and record it."""
        route = exchange.route
        try:
            if route is not None and route.kind is Kind.OWN:
                await self._own[route.endpoint](exchange)
            elif route is not None:
                with self._callers.count(exchange.caller):
                    strict = self.config.strict_fields or exchange.method == "GRPC"  # whose answers have no headers
                    request = await ModelRequest.read(exchange, route, self.metrics, is_strict=strict)  # parse, check
                    model = await self._start_model(exchange, request.fields.get("model"))
                    job = request.describe(model, deadline=self._find_deadline(exchange))
                    if job is None:
                        await request.ask(model)
                        return
                    while job is not None:  # once more at another worker, if the first fails
                        with await model.admission.acquire(job) as slot:  # admit, choose
                            await request.send(slot)  # send, pass on
                        job = await request.judge(slot)
                    await request.finish()
        except RefusedError as error:
            self._refuse(exchange, error)
        except LlcudaError as error:
            # A fleet keeps it, to say for a while why it does not start.
            self._refuse(exchange, to_refusal(error.with_traceback(None)))
        except asyncio.CancelledError:
            self._end_cancelled(exchange)
        except Exception:
            getLogger("llcuda.gateway").exception("a request failed: %s %s", exchange.method, exchange.path)
            self._refuse(exchange, RefusedError(500, "the gateway failed at this request", code="internal_error"))
        finally:
            self._record(exchange)

    def refuse(self, exchange: Exchange, error: RefusedError) -> None:
        """Answer with an error, and count it."""
        self._refuse(exchange, error)
        self._record(exchange)

    def note_slow_reader(self) -> None:
        """Count a client that was cut because it took nothing of what it was sent."""
        self.metrics.slow_readers.inc()

    def check_times(self) -> None:
        """End what takes too long; to be called once a second."""
        now = self._loop.time()
        for connection in tuple(self.connections):
            connection.check_time(now)

    def check_counts(self) -> None:
        """Take back what is counted and belongs to nobody any more, and say so; to be called once a second."""
        lost = Counter({"caller": self._callers.drop_lost(), "connection": self._drop_lost_connections()})
        for model in self._models.values():
            lost.update(model.drop_lost())
        for what, number in (+lost).items():
            getLogger("llcuda.gateway").error("%d of what is counted as %s belonged to nobody", number, what)
            self.metrics.repairs.labels(what).inc(number)

    def _drop_lost_connections(self) -> int:
        lost = {connection for connection in self.connections if connection.is_lost}
        self.connections -= lost
        return len(lost)

    @staticmethod
    def _find_route(exchange: Exchange) -> Route:
        if exchange.method == "OPTIONS" and "access-control-request-method" in exchange.headers:
            return PREFLIGHT
        exchange.path = resolve_path(exchange.path)
        return find_route(exchange.method, exchange.path)

    def find_model(self, name: object) -> ServedModel:
        """Return the model that a request names; the first one if it names none. Raises RefusedError (404)."""
        return find_model(self._models, name)

    async def _start_model(self, exchange: Exchange, name: object) -> ServedModel:
        """Return the model that a request names, started if it is on demand. Raises why it cannot be."""
        model = self.find_model(name)
        exchange.model = model.name
        try:
            await model.ensure_started()
        except UsageError as error:
            # It is the configuration that is wrong, and not the request.
            getLogger("llcuda.gateway").warning("the model %s cannot be started: %s", model.name, error)
            message = "this model cannot be started; the gateway's log says why"
            raise RefusedError(503, message, code="unavailable") from None
        return model

    def _find_deadline(self, exchange: Exchange) -> float:
        """Return the loop's time after which the client does not wait any more, as far as it says."""
        headers = exchange.headers
        # The second is what the official openai client sends.
        given = headers.get("x-request-timeout") or headers.get("x-stainless-read-timeout")
        seconds = self.limits.request_timeout
        if given:
            try:
                wanted = float(given)
            except ValueError:
                wanted = math.nan
            if math.isnan(wanted):
                raise RefusedError(400, "x-request-timeout is not a number of seconds", code="invalid_value")
            seconds = min(seconds, max(0.0, min(wanted, _MAX_TIMEOUT)))
        return self._loop.time() + seconds - (monotonic() - exchange.arrived)

    def _refuse(self, exchange: Exchange, error: RefusedError) -> None:
        self.metrics.rejected.labels(error.code or str(error.status)).inc()
        exchange.refusal = error
        if exchange.is_gone or exchange.finished:
            return
        if exchange.started:
            write_error_event(exchange, error.message)
        else:
            exchange.refuse(error)

    def _end_cancelled(self, exchange: Exchange) -> None:
        if self.draining and exchange.is_late:
            self._refuse(exchange, RefusedError(503, "the gateway is being stopped", code="stopping"))
        elif exchange.is_late:
            seconds = self.limits.request_timeout
            self._refuse(exchange, RefusedError(504, f"the answer took longer than {seconds:g} s", code="too_slow"))
        else:
            exchange.status = _CLIENT_GONE
            self.metrics.cancelled.inc()

    def _record(self, exchange: Exchange) -> None:
        route = exchange.route
        endpoint = route.endpoint if route else "unknown"
        seconds = monotonic() - exchange.arrived
        self.metrics.count(endpoint, model=exchange.model, status=exchange.status, seconds=seconds)
        prompt, completion = exchange.usage
        if prompt or completion:
            self.metrics.prompt_tokens.inc(prompt)
            self.metrics.completion_tokens.inc(completion)
        _access.info(
            "%s %s %d %s %.0f ms, %d + %d tokens",
            exchange.method, exchange.asked_path.partition("?")[0].encode("ascii", "backslashreplace").decode(),
            exchange.status, exchange.model or "-", 1000 * seconds, prompt, completion,
        )
        if self._audit is not None:
            self._audit.write(_describe(exchange, seconds))
        if self._trace is not None:
            self._trace(exchange)


def _describe(exchange: Exchange, seconds: float) -> AuditRecord:
    prompt, completion = exchange.usage
    return AuditRecord(
        time=time.time() - seconds,
        id=exchange.request_id,
        key=exchange.caller.name if exchange.caller else "",
        method=exchange.method,
        path=exchange.asked_path,
        status=exchange.status,
        model=exchange.model or None,
        worker=exchange.worker or None,
        bytes_in=exchange.body_bytes,
        bytes_out=exchange.bytes_out,
        prompt_tokens=prompt or None,
        completion_tokens=completion or None,
        queue_ms=1000 * exchange.queue_seconds if exchange.worker else None,
        duration_ms=1000 * seconds,
    )
