"""A request that comes from within the gateway: it goes its way as a client's does, but never waits in the queue."""

from __future__ import annotations

import asyncio
import json
from time import monotonic
from typing import TYPE_CHECKING, Any

from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.admin.samples import Piece, Sample, read_sample
from llcuda.gateway.http.access import Caller
from llcuda.gateway.http.exchange import Exchange
from llcuda.gateway.http.routes import ROUTES, ModelRoute
from llcuda.gateway.relay.model_request import ModelRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llcuda.fleet.served_model import ServedModel
    from llcuda.gateway.observe.gateway_metrics import GatewayMetrics

__all__ = ["LOWEST", "measure"]

LOWEST = Caller("benchmark", priority=-101)
"""Whose requests leave the queue after everybody's: no key can have that priority."""
_PATH = "/completion"
_OK = 200
_LONGEST = 600.0
_LOOK_INTERVAL = 0.01


async def measure(model: ServedModel, fields: dict[str, Any], *, metrics: GatewayMetrics) -> Sample:
    """Send one request to ``/completion`` and return what was seen of its answer.

    Raises RefusedError where it was not answered, and whatever keeps a model on demand from being started.
    """
    route = ROUTES[_PATH]
    assert isinstance(route, ModelRoute)  # noqa: S101 - it is one of llama-server's
    exchange = _Measured(json.dumps({**fields, "stream": True}).encode())
    request = ModelRequest(exchange, route, metrics)
    await model.ensure_started()
    await _await_room(model)
    limit = asyncio.get_running_loop().time() + _LONGEST
    await request.answer(model, deadline=limit)
    sample = read_sample(exchange.pieces, began=exchange.arrived) if exchange.status == _OK else None
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

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.pieces: list[Piece] = []
        self.method, self.path, self.caller, self.route = "POST", _PATH, LOWEST, ROUTES[_PATH]
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
            self.pieces.append(Piece(monotonic(), data))

    @property
    def is_gone(self) -> bool:
        """Whether the client has gone, which it has not."""
        return False

    @property
    def is_slow(self) -> bool:
        """Whether the source is to wait, which it is not."""
        return False

    def explain(self) -> str:
        """Return what went wrong, from an answer that is an error."""
        data = self.pieces[-1].data if self.pieces else b""
        try:
            return str(json.loads(data.removeprefix(b"data: "))["error"]["message"])
        except (ValueError, KeyError, TypeError):
            return "the worker's answer is not whole"
