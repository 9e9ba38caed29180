"""What the page at ``/`` shows, as JSON that is cheap enough to ask for every second, and what it changes."""

from __future__ import annotations

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

    from llcuda.engine import DeviceReport
    from llcuda.fleet.dispatch.worker import Worker
    from llcuda.fleet.served_model import ServedModel
    from llcuda.gateway.admin.information import AdministeredGateway
    from llcuda.gateway.http.exchange import Exchange

__all__ = ["Status"]

_MIB = 1 << 20
_NOT_KEPT = ("Cache-Control: no-store",)


class Status:
    """The page's own addresses."""

    def __init__(self, site: AdministeredGateway) -> None:
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
        self._figures = read_figures(self._metrics)
        busy = sum(worker.busy for model in self._models.values() for worker in model.workers)
        waiting = sum(model.admission.waiting for model in self._models.values())
        self._history.note(self._figures, now=monotonic(), busy=busy, waiting=waiting)

    async def _answer(self, exchange: Exchange) -> None:
        exchange.respond_json(self._describe(exchange), headers=_NOT_KEPT)

    async def _begin_offload(self, exchange: Exchange) -> None:
        exchange.respond_json(await self._offloads.begin(exchange.body), status=202, headers=_NOT_KEPT)

    async def _give_key(self, exchange: Exchange) -> None:
        key = self._site.owner.claim(parse_bearer(exchange.headers.get("authorization", "")))
        exchange.respond_json({"key": key}, headers=_NOT_KEPT)

    def _describe(self, exchange: Exchange) -> dict[str, Any]:
        caller = exchange.caller
        is_admin = caller is not None and caller.is_admin
        free, figures = read_free_memory(), self._figures
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
            "counted": {"requests": figures.requests, "rejected": figures.rejected, **figures.totals},
            "recent": self._history.to_plain(),
        }

    def _describe_model(self, model: ServedModel, *, is_admin: bool) -> dict[str, Any]:
        return {
            "name": model.name,
            "on_demand": model.config.on_demand,
            "waiting": model.admission.waiting,
            "waiting_tokens": model.admission.waiting_tokens,
            "offload": self._offloads.describe(model.name, is_admin=is_admin),
            "workers": [_describe_worker(worker, is_admin=is_admin) for worker in model.workers],
        }


def _describe_worker(worker: Worker, *, is_admin: bool) -> dict[str, Any]:
    server = worker.server
    error = server.last_error
    told = None if error is None else error.message if is_admin else to_refusal(error).message
    return {
        "name": server.name,
        "state": server.state,
        "slots": server.slots,
        "busy": worker.busy,
        "failures": worker.failed,
        "restarts": server.restarts,
        "memory_bytes": read_resident(server.pid),
        "last_error": told,
        "device": _describe_device(server.device_report),
    }


def _describe_device(report: DeviceReport | None) -> dict[str, Any] | None:
    if report is None:
        return None
    names = ("asked", "device", "backend", "offload", "reason", "remedy", "layers", "layers_on_gpu", "limits", "steps")
    uses = [{"device": use.device, "name": use.name, "bytes": use.total_bytes} for use in report.devices]
    return {**{name: getattr(report, name) for name in names}, "memory": uses}
