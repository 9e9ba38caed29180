"""The models that are served: each with its fleet and the queue in front of it, and who makes room for whom."""

from __future__ import annotations

import asyncio
from logging import getLogger
from time import monotonic
from typing import TYPE_CHECKING

from llcuda.errors import LlcudaError, OutOfMemoryError
from llcuda.fleet.dispatch.admission import Admission
from llcuda.fleet.dispatch.progress import Progress
from llcuda.fleet.dispatch.suspects import Suspects
from llcuda.fleet.fleet import Fleet
from llcuda.fleet.processes.machine_shares import Share
from llcuda.fleet.refusals import RefusedError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from llcuda.fleet.dispatch.admission import QueueLimits
    from llcuda.fleet.dispatch.worker import Worker
    from llcuda.fleet.model_config import ModelConfig

__all__ = ["ServedModel", "find_model", "prepare_models"]


class ServedModel:
    """A model by the name that requests call it."""

    def __init__(
        self,
        config: ModelConfig,
        limits: QueueLimits,
        *,
        hang_timeout: float = 10.0,
        share: Share = Share(),  # noqa: B008 - it never changes
        beside: Mapping[str, ServedModel] | None = None,
    ) -> None:
        """Have nothing started yet.

        ``hang_timeout`` seconds without any progress are too many. Of the models ``beside`` it, those that are on
        demand and idle make room for it.
        """
        self.name = config.name
        self.last_used = monotonic()
        self._starters = 0
        self.suspects = Suspects(monotonic)
        self.admission = Admission(
            self._find_workers, max_queued=limits.max_queued, max_queued_tokens=limits.max_queued_tokens
        )
        self.fleet = Fleet(
            config,
            share=share,
            hang_timeout=hang_timeout,
            on_change=self.admission.dispatch,
            on_death=self.suspects.suspect_all,
        )
        self._hang_timeout = hang_timeout
        self._progress: dict[Worker, Progress] = {}
        self._beside = {} if beside is None else beside  # it is empty still if this is the first of them

    def configure(self, config: ModelConfig, limits: QueueLimits) -> None:
        """Follow another configuration of the same model."""
        self.fleet.config = config
        self.admission.max_queued, self.admission.max_queued_tokens = limits.max_queued, limits.max_queued_tokens

    @property
    def config(self) -> ModelConfig:
        """How it is served."""
        return self.fleet.config

    @property
    def workers(self) -> tuple[Worker, ...]:
        """What answers its requests."""
        return tuple(self.fleet.workers.values())

    def _find_workers(self) -> Collection[Worker]:
        return self.fleet.workers.values()

    @property
    def is_busy(self) -> bool:
        """Whether it answers anybody, or anybody waits for it or for its start."""
        return bool(self._starters or self.admission.waiting) or any(worker.busy for worker in self.workers)

    @property
    def can_make_room(self) -> bool:
        """Whether it is loaded, nobody asks it, and it can be started again."""
        return self.config.on_demand and bool(self.workers) and not self.is_busy

    @property
    def is_stuck(self) -> bool:
        """Whether requests wait, and for ``hang_timeout`` seconds none was given a slot, and nothing was answered."""
        since = self.admission.waits_in_vain_since
        last = max([since or 0.0, *(one.moved_at for one in self._progress.values())])
        return since is not None and asyncio.get_running_loop().time() - last > self._hang_timeout

    @property
    def can_answer(self) -> bool:
        """Whether a request that comes now can be expected to be answered."""
        return (self.choose_any() is not None or self.config.on_demand) and not self.is_stuck

    @property
    def slots(self) -> int:
        """How many requests it answers at a time, or will once it is started."""
        count = self.config.workers + len(self.config.remotes)
        return sum(worker.slots for worker in self.workers) or count * self.config.slots

    async def ensure_started(self) -> None:
        """Start the model, if it is not; if memory is short, in the place of the one that was not used for longest.

        Raises why it cannot be started.
        """
        self._starters += 1
        try:
            await self.fleet.ensure_started()
        except OutOfMemoryError:
            idle = [model for model in self._beside.values() if model is not self and model.can_make_room]
            if not idle:
                raise
            oldest = min(idle, key=lambda model: model.last_used)
            getLogger("llcuda").warning("unloading %s to make room for %s", oldest.name, self.name)
            await oldest.fleet.stop()
            self.fleet.last_error = None
            await self.fleet.ensure_started()
        finally:
            self._starters -= 1
            self.last_used = monotonic()

    async def unload_if_idle(self) -> None:
        """Unload it if nobody has asked for it as long as its ``idle_timeout``."""
        limit = self.config.idle_timeout
        if self.is_busy:
            self.last_used = monotonic()
        elif limit is not None and self.can_make_room and monotonic() - self.last_used > limit:
            try:
                await self.fleet.stop()
            except LlcudaError as error:
                getLogger("llcuda").warning("the model %s could not be unloaded: %s", self.name, error)

    def look(self) -> None:
        """See whether its workers get on; to be called once a second."""
        here = [worker for worker in self.workers if not worker.server.is_remote]
        self._progress = {worker: self._progress.get(worker) or Progress(worker) for worker in here}
        for progress in self._progress.values():
            progress.look()

    def drop_lost(self) -> dict[str, int]:
        """Take back what belongs to tasks that have ended, and return how much: nothing, but for a mistake."""
        waiting = self.admission.drop_lost()  # before a slot is free, which would be given to one of them
        return {"slot": sum(worker.drop_lost() for worker in self.workers), "queue": waiting}

    def choose_any(self) -> Worker | None:
        """Return a worker for what takes no slot: the least busy one that answers, and one that rests if all do."""
        ready = [worker for worker in self.workers if worker.is_ready]
        return min(ready, key=lambda worker: (not worker.is_usable, worker.busy), default=None)


def find_model(models: Mapping[str, ServedModel], name: object) -> ServedModel:
    """Return the model of this name or alias; the first one for none. Raises RefusedError (404)."""
    if not name:
        return next(iter(models.values()))
    for model in models.values():
        if name == model.name or name in model.config.aliases:
            return model
    names = ", ".join(one for model in models.values() for one in (model.name, *model.config.aliases))
    raise RefusedError(404, f"there is no model {name!r}; there is {names}", code="model_not_found", param="model")


def prepare_models(
    configs: Sequence[ModelConfig], *, limits: QueueLimits, hang_timeout: float
) -> dict[str, ServedModel]:
    """Return the models by their names, nothing of them started yet; they share the machine."""
    models: dict[str, ServedModel] = {}
    in_all = sum(config.workers for config in configs)
    before = 0
    for config in configs:
        share = Share(before, in_all - config.workers)
        models[config.name] = ServedModel(config, limits, hang_timeout=hang_timeout, share=share, beside=models)
        before += config.workers
    return models
