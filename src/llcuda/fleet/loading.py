"""Which models are loaded: from the start or with their first request, until nobody asks or another needs the room."""

from __future__ import annotations

import asyncio
import math
from logging import getLogger
from time import monotonic
from typing import TYPE_CHECKING

from llcuda.errors import LlcudaError, OutOfMemoryError
from llcuda.fleet.fleet import Fleet
from llcuda.fleet.served_model import ServedModel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llcuda.fleet.dispatch.admission import QueueLimits
    from llcuda.fleet.model_config import ModelConfig
    from llcuda.fleet.processes.replica import Replica

__all__ = ["Loading", "until"]

_LOOK_SECONDS = 0.02


class Loading:
    """Models by the names that requests call them, and the replicas of each."""

    def __init__(self, models: Sequence[ModelConfig], *, limits: QueueLimits, hang_timeout: float) -> None:
        """Prepare; nothing is loaded yet. What makes no progress for ``hang_timeout`` seconds is started anew."""
        self._hang_timeout = hang_timeout
        self.models = {model.name: ServedModel(model, limits, hang_timeout=hang_timeout) for model in models}
        self.fleets: dict[str, Fleet] = {}
        self._workers_in_all = sum(model.workers for model in models)
        for model in models:
            before = sum(fleet.config.workers for fleet in self.fleets.values())
            self.fleets[model.name] = self._make_fleet(model, workers_before=before)

    async def start(self) -> None:
        """Load the models that are not on demand, all at the same time. Raises why one cannot be."""
        starts = [fleet.start() for fleet in self.fleets.values() if not fleet.config.on_demand]
        results = await asyncio.gather(*starts, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def unload_idle(self) -> None:
        """Unload what nobody has asked for as long as its ``idle_timeout``."""
        now = monotonic()
        for model in self.models.values():
            limit = model.config.idle_timeout
            if limit is not None and self._is_idle(model) and now - model.last_used > limit:
                try:
                    await self.fleets[model.name].unload()
                except LlcudaError as error:
                    getLogger("llcuda").warning("the model %s could not be unloaded: %s", model.name, error)

    def _make_fleet(self, config: ModelConfig, *, workers_before: int) -> Fleet:
        model = self.models[config.name]

        async def drain(replica: Replica) -> None:
            worker = model.find_worker(replica)
            if worker is not None:
                await until(lambda: not worker.busy)

        def follow(_replica: Replica) -> None:
            model.follow(self.fleets[config.name].replicas)

        hang = self._hang_timeout
        fleet = Fleet(
            config,
            workers_before=workers_before,
            workers_in_all=self._workers_in_all,
            hang_timeout=hang,
            drain=drain,
            on_change=follow,
        )
        model.start = lambda: self._ensure_started(fleet)
        return fleet

    async def _ensure_started(self, fleet: Fleet) -> None:
        """Start a model on demand; where memory is short, in the place of the one that was not used for longest."""
        try:
            await fleet.ensure_started()
        except OutOfMemoryError:
            idle = [model for model in self.models.values() if model.name != fleet.config.name and self._is_idle(model)]
            if not idle:
                raise
            oldest = min(idle, key=lambda model: model.last_used)
            getLogger("llcuda").warning("unloading %s to make room for %s", oldest.name, fleet.config.name)
            await self.fleets[oldest.name].unload()
            fleet.last_error = None
            await fleet.ensure_started()

    def _is_idle(self, model: ServedModel) -> bool:
        """Tell whether a model that can be started again is loaded, and nobody asks it."""
        return model.config.on_demand and bool(self.fleets[model.name].replicas) and not model.is_busy


async def until(condition: Callable[[], bool], *, seconds: float = math.inf) -> None:
    """Return when it is so, or the time is over."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not condition() and loop.time() < end:  # noqa: ASYNC110 - a look at an end that comes once
        await asyncio.sleep(_LOOK_SECONDS)
