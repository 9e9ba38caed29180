"""What the gateway answers itself: health, models, properties, slots, figures, and what it is made of."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qs, unquote

from llcuda import __version__
from llcuda.devices import check_gpu_compatibility
from llcuda.fleet.dispatch.worker import fetch
from llcuda.fleet.refusals import RefusedError
from llcuda.fleet.served_model import find_model
from llcuda.gateway.api.openapi import serve_document
from llcuda.gateway.http.routes import CHAT_FOLDER, MODEL_PREFIX
from llcuda.gateway.observe.gateway_metrics import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping

    from llcuda.fleet.dispatch.worker import Worker
    from llcuda.fleet.served_model import ServedModel
    from llcuda.gateway.config.configuration import GatewayConfig
    from llcuda.gateway.http.exchange import Exchange
    from llcuda.gateway.http.owner import Owner
    from llcuda.gateway.observe.gateway_metrics import GatewayMetrics

__all__ = ["AdministeredGateway", "Information", "describe_model"]

_OK = 200
_WATCH_SECONDS = 50
_ROUTER = {
    "role": "router", "model_path": "none", "ui": True, "default_generation_settings": {"params": {}, "n_ctx": 0},
}  # fmt: skip
"""As llama-server's router describes itself: the chat page then lets people choose a model, and starts it by asking."""


class AdministeredGateway(Protocol):
    """The gateway that is administered."""

    config: GatewayConfig
    """What it follows now; a reload changes it."""
    models: dict[str, ServedModel]
    metrics: GatewayMetrics
    owner: Owner

    @property
    def grpc_port(self) -> int | None:
        """The port of the binary protocol, if it is switched on."""

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to end."""

    async def reload(self, config: GatewayConfig | None = None, *, models: Collection[str] | None = None) -> None:
        """Replace the workers of ``models`` by new ones that are as ``config`` says. Raises why it cannot."""

    async def reload_logged(self) -> None:
        """Replace every worker; log why that is not possible."""


class Information:
    """The addresses that only tell something, and the reload."""

    def __init__(self, site: AdministeredGateway) -> None:
        self._site = site
        self._models = site.models
        self._reloading: asyncio.Task[None] | None = None
        self._began = int(time.time())
        site.metrics.add_gauges(self._read_gauges)

    @property
    def table(self) -> dict[str, Callable[[Exchange], Awaitable[None]]]:
        """The endpoints of :mod:`llcuda.gateway.http.routes` that are answered here."""
        return {
            "health": self._health,
            "models": self._list_models,
            "model": self._show_model,
            "props": self._props,
            "slots": self._slots,
            "metrics": self._page,
            "capabilities": self._capabilities,
            "reload": self._start_reload,
            "preflight": self._allow,
            "chat_models": self._watch_models,
            "openapi": serve_document,
        }

    async def _health(self, exchange: Exchange) -> None:
        answering = [model.name for model in self._models.values() if model.can_answer]
        missing = [name for name in self._models if name not in answering]
        if answering:
            exchange.respond_json({"status": "ok", **({"unavailable": missing} if missing else {})})
        else:
            raise RefusedError(503, "no model can answer now", code="unavailable", headers={"Retry-After": "5"})

    async def _list_models(self, exchange: Exchange) -> None:
        known = ((model.name, () if _is_of_page(exchange) else model.config.aliases) for model in self._models.values())
        names = (name for own, aliases in known for name in (own, *aliases))
        exchange.respond_json({"object": "list", "data": [self._describe(name) for name in names]})

    async def _show_model(self, exchange: Exchange) -> None:
        name = unquote(exchange.path.removeprefix(MODEL_PREFIX))
        find_model(self._models, name)
        exchange.respond_json(self._describe(name))

    def _describe(self, name: str) -> dict[str, Any]:
        """Return a model as OpenAI does, and for the chat page as llama-server's router: it starts with a request."""
        about = {"object": "model", "created": self._began, "owned_by": "llcuda"}
        return {"id": name, **about, "status": {"value": "loaded"}}

    async def _watch_models(self, exchange: Exchange) -> None:
        """Answer the chat page's question after changes of the list of models: there are none."""
        for _ in range(_WATCH_SECONDS):
            if not self._site.is_stopping:
                await asyncio.sleep(1)
        exchange.respond(_OK, b"", content_type="text/event-stream")

    async def _props(self, exchange: Exchange) -> None:
        name = next(iter(parse_qs(exchange.query).get("model", ())), None)
        model = find_model(self._models, name)
        worker = model.choose_any()
        is_to_start = worker is None and model.config.on_demand
        if _is_of_page(exchange) and name is None and (len(self._models) > 1 or is_to_start):
            exchange.respond_json(_ROUTER)
            return
        answer = await fetch(worker, "/props") if worker else None
        if answer is None:
            raise RefusedError(503, "no worker can answer now", code="unavailable", headers={"Retry-After": "5"})
        props = _read_object(answer.body)
        # The file's folder is nobody's business who asks over a network.
        props["model_path"] = model.name
        if _is_of_page(exchange):
            props["ui"] = True  # or it would hide the model, whose own page is switched off
        exchange.respond_json(props, status=answer.status)

    async def _slots(self, exchange: Exchange) -> None:
        slots: list[dict[str, Any]] = []
        for worker, answer in await self._ask_all("/slots"):
            slots += [{"worker": worker.server.name, **slot} for slot in json.loads(answer)]
        exchange.respond_json(slots)

    async def _page(self, exchange: Exchange) -> None:
        names = {id(worker): model.name for model in self._models.values() for worker in model.workers}
        pages = [
            ({"model": names.get(id(worker), ""), "worker": worker.server.name}, answer.decode("utf-8", "replace"))
            for worker, answer in await self._ask_all("/metrics")
        ]
        exchange.respond(_OK, self._site.metrics.render(pages), content_type=CONTENT_TYPE)

    async def _capabilities(self, exchange: Exchange) -> None:
        exchange.respond_json({
            "version": __version__,
            "devices": dict(await asyncio.to_thread(check_gpu_compatibility)),
            "models": [describe_model(model) for model in self._models.values()],
            "limits": asdict(self._site.config.limits),
            "grpc_port": self._site.grpc_port,
        })  # fmt: skip

    async def _allow(self, exchange: Exchange) -> None:
        """Answer a browser's question; the headers say what it may do."""
        exchange.respond(_OK, b"", content_type="text/plain")

    async def _start_reload(self, exchange: Exchange) -> None:
        if self._reloading is not None and not self._reloading.done():
            raise RefusedError(409, "a reload is under way already", code="reload_under_way")
        self._reloading = asyncio.ensure_future(self._site.reload_logged())
        exchange.respond_json({"status": "reloading"}, status=202)

    async def _ask_all(self, path: str) -> list[tuple[Worker, bytes]]:
        """Return the answers of the workers of this machine that have one, all asked at the same time."""
        everyone = (worker for model in self._models.values() for worker in model.workers)
        workers = [worker for worker in everyone if worker.is_ready and not worker.server.is_remote]
        answers = await asyncio.gather(*(fetch(worker, path) for worker in workers))
        return [
            (worker, answer.body)
            for worker, answer in zip(workers, answers, strict=True)
            if answer is not None and answer.status == _OK
        ]

    def _read_gauges(self) -> Iterable[tuple[str, str, Mapping[str, str], float]]:
        for model in self._models.values():
            labels = {"model": model.name}
            yield "llcuda_queue_waiting", "Requests that wait for a slot.", labels, model.admission.waiting
            tokens = model.admission.waiting_tokens
            yield "llcuda_queue_waiting_tokens", "Estimated tokens of the requests that wait.", labels, tokens
            for worker in model.workers:
                server, labels = worker.server, {"model": model.name, "worker": worker.server.name}
                yield "llcuda_worker_up", "Whether the worker answers.", labels, float(worker.is_ready)
                yield "llcuda_worker_slots", "Requests that the worker answers at a time.", labels, worker.slots
                yield "llcuda_worker_busy", "Slots of the worker that are in use.", labels, worker.busy
                yield "llcuda_worker_restarts_total", "How often the worker was started anew.", labels, server.restarts
                yield "llcuda_worker_failures", "Requests that the worker failed at.", labels, worker.failed


def _is_of_page(exchange: Exchange) -> bool:
    """Return whether the chat page asks."""
    return exchange.asked_path.startswith(CHAT_FOLDER)


def describe_model(model: ServedModel) -> dict[str, Any]:
    """Return a model as plain data: who waits for it, and its workers with what each runs on."""
    workers = [
        {
            "name": worker.server.name,
            "state": worker.server.state,
            "slots": worker.slots,
            "busy": worker.busy,
            "device": _describe_report(worker),
        }
        for worker in model.workers
    ]
    return {"name": model.name, "waiting": model.admission.waiting, "workers": workers}


def _describe_report(worker: Worker) -> dict[str, Any] | None:
    report = worker.server.device_report
    if report is None:
        return None
    names = ("device", "backend", "layers_on_gpu", "layers", "offload", "reason")
    gpus = ", ".join(use.name for use in report.devices if use.uuid)
    return {**{name: getattr(report, name) for name in names}, "gpu": gpus or None}


def _read_object(body: bytes) -> dict[str, Any]:
    """Return the object that a worker answered, which may be of another machine. Raises RefusedError."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RefusedError(502, "the worker's answer is no object", code="worker_failed")
    return value
