"""One model that is served: its workers, and the queue in front of them."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

from llcuda.fleet.dispatch.admission import Admission
from llcuda.fleet.dispatch.progress import Progress
from llcuda.fleet.dispatch.suspects import Suspects
from llcuda.fleet.dispatch.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from llcuda.fleet.dispatch.admission import QueueLimits
    from llcuda.fleet.dispatch.worker import Server
    from llcuda.fleet.model_config import ModelConfig

__all__ = ["ServedModel"]


class ServedModel:
    """A model by the name that requests call it, with one worker for each llama-server there is of it."""

    def __init__(self, config: ModelConfig, limits: QueueLimits, *, hang_timeout: float = 10.0) -> None:
        """Have no workers yet; ``hang_timeout`` seconds without any progress are too many."""
        self.config = config
        self.name = config.name
        self.last_used = monotonic()
        self.workers: list[Worker] = []
        self.start: Callable[[], Awaitable[None]] | None = None
        self.suspects = Suspects(monotonic)
        self._hang_timeout = hang_timeout
        self._progress: dict[Worker, Progress] = {}
        self.admission = Admission(
            lambda: self.workers, max_queued=limits.max_queued, max_queued_tokens=limits.max_queued_tokens
        )

    def configure(self, config: ModelConfig, limits: QueueLimits) -> None:
        """Follow another configuration of the same model."""
        self.config = config
        self.admission.max_queued, self.admission.max_queued_tokens = limits.max_queued, limits.max_queued_tokens

    @property
    def is_busy(self) -> bool:
        """Whether it answers anybody, or anybody waits for it."""
        return bool(self.admission.waiting) or any(worker.busy for worker in self.workers)

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
        return sum(worker.slots for worker in self.workers) or self.config.workers * self.config.slots

    async def ensure_started(self) -> None:
        """Start the model, if it is not. Raises why it cannot be."""
        self.last_used = monotonic()
        if self.start is not None:
            await self.start()

    def follow(self, servers: Sequence[Server]) -> None:
        """Have a worker for each of ``servers``: one more, one less, or another state than before."""
        before = self.workers
        self.workers = [
            self.find_worker(server)
            or Worker(server, on_free=self.admission.dispatch, on_death=self.suspects.suspect_all)
            for server in servers
        ]
        for gone in (worker for worker in before if worker not in self.workers):
            gone.draining = True
            gone.drop()
        self._progress = {worker: self._progress.get(worker) or Progress(worker) for worker in self.workers}
        for worker in self.workers:
            worker.note_state()
        self.admission.dispatch()

    def find_worker(self, server: Server) -> Worker | None:
        """Return the worker of a server, None where it has none."""
        return next((worker for worker in self.workers if worker.server is server), None)

    def look(self) -> None:
        """See whether its workers get on; to be called once a second."""
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
