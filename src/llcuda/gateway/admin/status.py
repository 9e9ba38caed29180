"""What the page at ``/`` shows, as JSON that is cheap enough to ask for every second, and what it changes."""

from __future__ import annotations

import json
import os
from time import monotonic
from typing import TYPE_CHECKING, Any

from llcuda import __version__
from llcuda.fleet.processes.process_usage import read_resident
from llcuda.gateway.admin.offload_changes import Offloads
from llcuda.gateway.http.access import parse_bearer
from llcuda.gateway.http.error_envelopes import to_refusal
from llcuda.gateway.http.static_files import serve_page
from llcuda.gateway.observe.history import Figures, History, read_figures
from llcuda.server.free_memory import read_free_memory

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llcuda.fleet.dispatch.worker import Worker
    from llcuda.fleet.processes.replica import Replica
    from llcuda.fleet.remotes.remote import Remote
    from llcuda.fleet.served_model import ServedModel
    from llcuda.gateway.admin.information import Site
    from llcuda.gateway.http.exchange import Exchange

__all__ = ["Status"]

_MIB = 1 << 20


class Status:
    """The page's own addresses."""

    def __init__(self, site: Site) -> None:
        """Show what runs, and change it."""
        self._site = site
        self._models = site.models
        self._metrics = site.metrics
        self._offloads = Offloads(site)
        self._history = History()
        self._figures = Figures()
        self._began = monotonic()

    @property
    def table(self) -> dict[str, Callable[[Exchange], Awaitable[None]]]:
        """The endpoints of :mod:`llcuda.gateway.http.routes` that are answered here."""
        return {"page": serve_page, "status": self._answer, "offload": self._begin_offload, "owner": self._give_key}

    def note_second(self) -> None:
        """Take the figures for the charts; to be called once a second."""
        self._figures = read_figures(self._metrics.registry)
        busy = sum(worker.busy for model in self._models.values() for worker in model.workers)
        waiting = sum(model.admission.waiting for model in self._models.values())
        self._history.note(self._figures, now=monotonic(), busy=busy, waiting=waiting)

    async def _answer(self, exchange: Exchange) -> None:
        _respond(exchange, self._describe(exchange))

    async def _begin_offload(self, exchange: Exchange) -> None:
        _respond(exchange, await self._offloads.begin(exchange.body), status=202)

    async def _give_key(self, exchange: Exchange) -> None:
        _respond(exchange, {"key": self._site.owner.claim(parse_bearer(exchange.headers.get("authorization", "")))})

    def _describe(self, exchange: Exchange) -> dict[str, Any]:
        caller = exchange.caller
        is_admin = caller is not None and caller.is_admin
        free = read_free_memory()
        return {
            "version": __version__,
            "uptime_seconds": round(monotonic() - self._began),
            "needs_key": bool(self._site.config.keys),
            "caller": {"name": caller.name if caller else "", "is_admin": is_admin},
            "memory": {
                "gateway_bytes": read_resident(os.getpid()),
                "available_bytes": None if free is None else free * _MIB,
            },
            "models": [self._describe_model(model, is_admin=is_admin) for model in self._models.values()],
            "counted": _describe_figures(self._figures),
            "recent": self._history.to_plain(),
        }

    def _describe_model(self, model: ServedModel, *, is_admin: bool) -> dict[str, Any]:
        return {
            "name": model.name,
            "on_demand": model.config.on_demand,
            "waiting": model.admission.waiting,
            "waiting_tokens": model.admission.waiting_tokens,
            "offload": self._offloads.describe(model.name, is_admin=is_admin),
            "workers": [
                _describe_worker(replica, worker, is_admin=is_admin)
                for replica, worker in zip(model.fleet.replicas, model.workers, strict=True)
            ],
        }


def _describe_worker(replica: Replica | Remote, worker: Worker, *, is_admin: bool) -> dict[str, Any]:
    error = replica.last_error
    told = None if error is None else error.message if is_admin else to_refusal(error).message
    return {
        "name": replica.name,
        "state": replica.state,
        "slots": replica.slots,
        "busy": worker.busy,
        "failures": worker.failed,
        "restarts": replica.restarts,
        "memory_bytes": read_resident(replica.pid),
        "last_error": told,
        "device": _describe_device(replica),
    }


def _describe_device(replica: Replica | Remote) -> dict[str, Any] | None:
    report = replica.device_report
    if report is None:
        return None
    names = ("asked", "device", "backend", "offload", "reason", "remedy", "layers", "layers_on_gpu", "limits", "steps")
    uses = [{"device": use.device, "name": use.name, "bytes": use.total_bytes} for use in report.devices]
    return {**{name: getattr(report, name) for name in names}, "memory": uses}


def _describe_figures(figures: Figures) -> dict[str, Any]:
    return {"requests": dict(figures.requests), "rejected": dict(figures.rejected), **figures.totals}


def _respond(exchange: Exchange, value: object, *, status: int = 200) -> None:
    body = json.dumps(value, ensure_ascii=False).encode()
    exchange.respond(status, body, headers=("Cache-Control: no-store",))
