"""What an administrator may do with a gateway that runs: give it a GPU backend, take it back, and measure it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from llcuda.gateway.admin.information import describe_model
from llcuda.gateway.admin.self_benchmark import SelfBenchmark
from llcuda.gateway.admin.upgrade import Upgrade
from llcuda.gateway.observe.gpu_metrics import GpuMetrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from llcuda.fleet.served_model import ServedModel
    from llcuda.gateway.http.exchange import Exchange
    from llcuda.gateway.observe.gateway_metrics import GatewayMetrics

__all__ = ["Administration"]


class Administration:
    """The addresses of an administrator, and the figures of the GPUs."""

    def __init__(
        self,
        *,
        models: Mapping[str, ServedModel],
        source: Callable[[], str | None],
        reload: Callable[[], Awaitable[None]],
        grace: Callable[[], float],
        metrics: GatewayMetrics,
    ) -> None:
        """Take bundles from ``source``; ``reload`` replaces all workers of the ``models``, within ``grace`` seconds."""

        def describe() -> list[dict[str, Any]]:
            return [describe_model(model) for model in models.values()]

        self._upgrade = Upgrade(source=source, reload=reload, models=models, describe=describe, grace=grace)
        self._benchmark = SelfBenchmark(models, describe=describe)
        self._gpus = GpuMetrics()
        metrics.add_gauges(self._gpus.read)

    @property
    def table(self) -> dict[str, Callable[[Exchange], Awaitable[None]]]:
        """The endpoints of :mod:`llcuda.gateway.http.routes` that are answered here."""
        return {
            "upgrade_plan": self._answer_plan,
            "upgrade": lambda exchange: self._change(exchange, "install"),
            "rollback": lambda exchange: self._change(exchange, "rollback"),
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

    async def _change(self, exchange: Exchange, action: str) -> None:
        await self._upgrade.begin(exchange, action=action).send_to(exchange)
