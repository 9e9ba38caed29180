"""Who may be answered now, who waits, and who is sent away: a bounded queue in front of the workers' slots."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from random import random
from typing import TYPE_CHECKING

from llcuda.gateway.balance import Prompt, WorkerView, choose_worker
from llcuda.gateway.refusals import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llcuda.gateway.worker import Worker

__all__ = ["Admission", "Callers", "DrainRate", "Job"]

_MAX_RETRY_AFTER = 600
_LONGEST_WAIT_FOR_A_WORKER = 60.0


@dataclass(slots=True)
class Job:
    """One request as the queue sees it."""

    prompt: Prompt = field(default_factory=Prompt)
    tokens: int = 0
    """Estimated, of prompt and answer."""
    priority: int = 0
    deadline: float = math.inf
    """The loop's time after which nobody waits for the answer any more."""
    excluded: Worker | None = None
    """The worker that has failed at it."""
    queued: float = 0.0
    """Seconds that it has waited."""


class DrainRate:
    """How fast slots become free: the mean time that a request takes, the last ones counting most."""

    __slots__ = ("_seconds",)

    _WEIGHT = 0.1

    def __init__(self) -> None:
        """Know nothing yet."""
        self._seconds: float | None = None

    def record(self, seconds: float) -> None:
        """Note how long a request had its slot."""
        self._seconds = seconds if self._seconds is None else self._seconds + self._WEIGHT * (seconds - self._seconds)

    def estimate(self, ahead: int, *, slots: int) -> float:
        """Return the seconds until ``ahead`` requests have left ``slots`` slots; 0 where nothing was measured."""
        return ahead * (self._seconds or 0.0) / max(1, slots)


class Callers:
    """How many requests each caller has under way."""

    __slots__ = ("_in_flight",)

    def __init__(self) -> None:
        """Start with none."""
        self._in_flight: Counter[str] = Counter()

    def enter(self, name: str, maximum: int | None) -> None:
        """Count a request. Raises RefusedError where it is one too many."""
        if maximum is not None and self._in_flight[name] >= maximum:
            raise RefusedError(
                429,
                f"this key may have {maximum} requests at a time",
                code="too_many_in_flight",
                headers={"Retry-After": "1"},
            )
        self._in_flight[name] += 1

    def leave(self, name: str) -> None:
        """Count it no more."""
        self._in_flight[name] -= 1
        if not self._in_flight[name]:
            del self._in_flight[name]


@dataclass(order=True, slots=True)
class _Entry:
    order: tuple[int, int]
    job: Job = field(compare=False)
    turn: asyncio.Future[Worker] = field(compare=False)


class Admission:
    """The queue of one model.

    First come, first served within a priority. A job whose deadline has passed, or would have by the time of its turn,
    is not begun. ``workers`` is asked anew each time, so that it may change.
    """

    def __init__(
        self, workers: Callable[[], Sequence[Worker]], *, max_queued: int, max_queued_tokens: int
    ) -> None:
        """Let at most ``max_queued`` jobs wait, of together at most ``max_queued_tokens`` estimated tokens."""
        self._workers = workers
        self.max_queued = max_queued
        self.max_queued_tokens = max_queued_tokens
        self._heap: list[_Entry] = []
        self._numbers = count()
        self._loop = asyncio.get_running_loop()
        self._rate = DrainRate()
        self.waiting = 0
        self.waiting_tokens = 0

    @property
    def is_open(self) -> bool:
        """Whether a request that came now would have a slot at once."""
        return not self.waiting and any(worker.is_free for worker in self._workers())

    async def acquire(self, job: Job) -> Worker:
        """Wait for a slot and return its worker, which :meth:`release` gives back.

        Raises RefusedError: 429 with Retry-After where too many wait, 503 where no worker can be expected, 504 where
        the deadline comes first.
        """
        if not self.waiting:
            worker = self._place(job)
            if worker is not None:
                return worker
        entry = self._enqueue(job)
        began = self._loop.time()
        timer = self._loop.call_at(self._latest(job, began), self._give_up, entry)
        try:
            return await entry.turn
        except asyncio.CancelledError:
            if entry in self._heap:
                self._remove(entry)
            elif not entry.turn.cancelled() and entry.turn.exception() is None:
                self.release(entry.turn.result())  # its turn came in the same moment
            raise
        finally:
            timer.cancel()
            job.queued += self._loop.time() - began

    def release(self, worker: Worker, *, seconds: float | None = None) -> None:
        """Give a slot back, to whoever is next; it was used for ``seconds`` where a request was answered in it."""
        worker.busy -= 1
        if seconds is not None:
            self._rate.record(seconds)
        self.dispatch()

    def dispatch(self) -> None:
        """Give free slots to those who wait; called when a slot or a worker has become free."""
        while self._heap:
            entry = self._heap[0]
            worker = self._place(entry.job)
            if worker is None:
                if not any(candidate.is_expected for candidate in self._workers()):
                    self._refuse_all()
                return
            self._leave(heapq.heappop(self._heap))
            entry.turn.set_result(worker)

    def estimate_wait(self) -> float:
        """Return in how many seconds a request that came now would have its turn, by what was measured."""
        return self._rate.estimate(self.waiting + 1, slots=sum(worker.slots for worker in self._workers()))

    def _place(self, job: Job) -> Worker | None:
        workers = [worker for worker in self._workers() if worker is not job.excluded or self._is_alone(worker)]
        if len(workers) == 1:
            index = 0 if workers[0].is_free else None
        else:
            index = choose_worker([_view(worker, job.prompt) for worker in workers])
        if index is None:
            return None
        worker = workers[index]
        worker.take(job.prompt, self._loop.time())
        return worker

    def _is_alone(self, worker: Worker) -> bool:
        return not any(other.is_expected for other in self._workers() if other is not worker)

    def _enqueue(self, job: Job) -> _Entry:
        if not any(worker.is_expected for worker in self._workers()):
            raise self._unavailable()
        if self.waiting >= self.max_queued or self.waiting_tokens + job.tokens > self.max_queued_tokens:
            raise self._full(job)
        if self._loop.time() + self.estimate_wait() > job.deadline:
            raise self._late("would pass before")
        entry = _Entry((-job.priority, next(self._numbers)), job, self._loop.create_future())
        heapq.heappush(self._heap, entry)
        self.waiting += 1
        self.waiting_tokens += job.tokens
        return entry

    def _leave(self, entry: _Entry) -> None:
        self.waiting -= 1
        self.waiting_tokens -= entry.job.tokens

    def _remove(self, entry: _Entry) -> None:
        self._heap.remove(entry)
        heapq.heapify(self._heap)
        self._leave(entry)
        self.dispatch()

    def _latest(self, job: Job, now: float) -> float:
        if any(worker.is_ready for worker in self._workers()):
            return min(job.deadline, now + 10 * _MAX_RETRY_AFTER)
        return min(job.deadline, now + _LONGEST_WAIT_FOR_A_WORKER)

    def _give_up(self, entry: _Entry) -> None:
        if entry.turn.done():
            return
        self._remove(entry)
        no_worker = not any(worker.is_ready for worker in self._workers())
        entry.turn.set_exception(self._unavailable() if no_worker else self._late("passed before"))

    def _refuse_all(self) -> None:
        refused, self._heap = self._heap, []
        for entry in refused:
            self._leave(entry)
            entry.turn.set_exception(self._unavailable())

    def _retry_after(self) -> dict[str, str]:
        seconds = self.estimate_wait() * (1 + 0.2 * random())  # noqa: S311 - so that they do not all come back at once
        return {"Retry-After": str(max(1, min(_MAX_RETRY_AFTER, math.ceil(seconds))))}

    def _full(self, job: Job) -> RefusedError:
        what = f"{self.waiting} requests wait" if self.waiting >= self.max_queued else "too many tokens wait"
        if job.tokens > self.max_queued_tokens:
            message = f"this request alone is more than {self.max_queued_tokens} tokens"
            return RefusedError(413, message, code="too_many_tokens")
        return RefusedError(429, f"{what} already", code="queue_full", headers=self._retry_after())

    def _late(self, how: str) -> RefusedError:
        return RefusedError(504, f"the deadline {how} the request's turn", code="deadline", headers=self._retry_after())

    def _unavailable(self) -> RefusedError:
        return RefusedError(
            503, "no worker of this model can answer now", code="unavailable", headers={"Retry-After": "5"}
        )


def _view(worker: Worker, prompt: Prompt) -> WorkerView | None:
    if not worker.is_free:
        return None
    return WorkerView(worker.slots, worker.busy, prompt.rate(worker.memory.match(prompt.links)), worker.last_new)
