"""All that the gateway answers itself: what it tells, its page, and what an administrator may do with it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from llcuda.gateway.admin.information import Information
from llcuda.gateway.admin.self_benchmark import SelfBenchmark
from llcuda.gateway.admin.status import Status
from llcuda.gateway.admin.upgrade import Upgrade
from llcuda.gateway.observe.gpu_metrics import GpuMetrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llcuda.gateway.admin.information import Site
    from llcuda.gateway.http.exchange import Exchange

__all__ = ["Administration"]


class Administration:
    """The gateway's own addresses, and the figures of the GPUs."""

    def __init__(self, site: Site) -> None:
        """Administer the ``site``."""
        self._information = Information(site)
        self._status = Status(site)
        self.note_second = self._status.note_second
        self._upgrade = Upgrade(site)
        self._benchmark = SelfBenchmark(site.models)
        self._gpus = GpuMetrics()
        site.metrics.add_gauges(self._gpus.read)

    @property
    def table(self) -> dict[str, Callable[[Exchange], Awaitable[None]]]:
        """The endpoints of :data:`llcuda.gateway.http.routes.ROUTES` that are answered here."""
        return {
            **self._information.table,
            **self._status.table,
            "upgrade_plan": self._answer_plan,
            "upgrade": self._install,
            "rollback": self._roll_back,
            "benchmark": self._benchmark.answer,
        }

    def start(self) -> None:
        """Begin to look at the GPUs."""
        self._gpus.start()

    def begin_stop(self) -> None:
        """End what is under way, in order, and tell whoever waits for it."""
        self._upgrade.begin_stop()
        self._benchmark.begin_stop()

    async def wait_ended(self) -> None:
        """Return when nothing is under way any more; to be called when the workers have been stopped."""
        await self._upgrade.wait_ended()
        await asyncio.to_thread(self._gpus.stop)

    async def _answer_plan(self, exchange: Exchange) -> None:
        exchange.respond(200, json.dumps(await self._upgrade.find_plan(), ensure_ascii=False).encode())

    async def _install(self, exchange: Exchange) -> None:
        await self._upgrade.begin(exchange, action="install").send_to(exchange)

    async def _roll_back(self, exchange: Exchange) -> None:
        await self._upgrade.begin(exchange, action="rollback").send_to(exchange)
