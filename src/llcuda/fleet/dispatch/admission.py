"""Who may be answered now, who waits, and who is sent away: a bounded queue in front of the workers' slots."""

from __future__ import annotations

import asyncio
import math
from bisect import insort
from collections import deque
from dataclasses import dataclass, field
from itertools import count
from random import random
from typing import TYPE_CHECKING, Any, Protocol

from llcuda.fleet.dispatch.balance import WorkerView, choose_worker
from llcuda.fleet.refusals import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from llcuda.fleet.dispatch.balance import Prompt
    from llcuda.fleet.dispatch.worker import Job, Slot, Worker

__all__ = ["Admission", "DrainRate", "QueueLimits", "current_task"]

_MAX_RETRY_AFTER = 600
_LONGEST_WAIT_FOR_A_WORKER = 60.0


class QueueLimits(Protocol):
    """The bounds of a queue."""

    @property
    def max_queued(self) -> int:
        """Requests that wait for a slot."""

    @property
    def max_queued_tokens(self) -> int:
        """Estimated tokens of the requests that wait for a slot."""


class DrainRate:
    """How fast slots become free: the mean time that a request takes, the last ones counting most."""

    __slots__ = ("_seconds",)

    _WEIGHT = 0.1

    def __init__(self) -> None:
        self._seconds: float | None = None

    def record(self, seconds: float) -> None:
        """Note how long a request had its slot."""
        self._seconds = seconds if self._seconds is None else self._seconds + self._WEIGHT * (seconds - self._seconds)

    def estimate(self, ahead: int, *, slots: int) -> float:
        """Return the seconds until ``ahead`` requests have left ``slots`` slots; 0 if nothing was measured."""
        return ahead * (self._seconds or 0.0) / max(1, slots)


def current_task() -> asyncio.Task[Any]:
    """Return the task that runs; whoever holds anything that is counted is one."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in one
    return task


@dataclass(order=True, slots=True)
class _Entry:
    order: tuple[int, int]
    job: Job = field(compare=False)
    owner: asyncio.Task[Any] = field(compare=False)
    turn: asyncio.Future[Slot] = field(compare=False)
    since: float = field(compare=False)


class Admission:
    """The queue of one model.

    First come, first served within a priority; suspects wait in a queue of their own. A job whose deadline has passed,
    or would have by the time of its turn, is not begun. ``workers`` is asked anew each time, so that it may change.
    """

    def __init__(self, workers: Callable[[], Collection[Worker]], *, max_queued: int, max_queued_tokens: int) -> None:
        """Let at most ``max_queued`` jobs wait, of together at most ``max_queued_tokens`` estimated tokens."""
        self._workers = workers
        self.max_queued = max_queued
        self.max_queued_tokens = max_queued_tokens
        self._queue: list[_Entry] = []
        self._suspects: deque[_Entry] = deque()
        self._reserved: Worker | None = None
        """The worker that is given nothing more, until the first of the suspects can have it to itself."""
        self._numbers = count()
        self._loop = asyncio.get_running_loop()
        self.rate = DrainRate()
        self._given_at = self._loop.time()

    @property
    def waiting(self) -> int:
        """How many jobs wait for a slot."""
        return len(self._queue) + len(self._suspects)

    @property
    def waiting_tokens(self) -> int:
        """The estimated tokens of the jobs that wait."""
        return sum(entry.job.tokens for entry in self._entries())

    @property
    def is_open(self) -> bool:
        """Whether a request that came now would have a slot at once."""
        return not self.waiting and any(worker.is_free for worker in self._workers())

    @property
    def waits_in_vain_since(self) -> float | None:
        """The loop's time since when jobs have waited without one of them being given a slot; None if none waits."""
        since = min((entry.since for entry in self._entries()), default=None)
        return None if since is None else max(since, self._given_at)

    async def acquire(self, job: Job) -> Slot:
        """Wait for a slot and return it; it is given back at the end of a ``with`` block, in whatever way that ends.

        Raises RefusedError: 429 with Retry-After if too many wait, 503 if no worker can be expected, 504 if the
        deadline comes first.
        """
        if not self._queue and not job.is_suspect:
            slot = self._place(job, current_task())
            if slot is not None:
                return slot
        entry = self._enqueue(job)
        timer = self._loop.call_at(self._latest(job, entry.since), self._give_up, entry)
        try:
            self.dispatch()
            return await entry.turn
        except BaseException:
            self._withdraw(entry)
            raise
        finally:
            timer.cancel()
            job.queued += self._loop.time() - entry.since

    def dispatch(self) -> None:
        """Give free slots to those who wait; called when a slot or a worker has become free."""
        if not self._queue and not self._suspects:
            self._reserved = None
            return
        self._dispatch_suspects()
        for entry in tuple(self._queue):
            has_left = entry.turn.done()
            slot = None if has_left else self._place(entry.job, entry.owner)
            if slot is not None:
                entry.turn.set_result(slot)
            if slot is not None or has_left:
                self._queue.remove(entry)
            elif entry.job.excluded is None:
                break  # if one that may go anywhere finds no slot, nobody behind it does
        if self.waiting and not any(worker.is_expected for worker in self._workers()):
            self._refuse_all()

    def drop_lost(self) -> int:
        """Forget the jobs whose tasks have ended, and return how many there were: none, but for a mistake."""
        lost = [entry for entry in self._entries() if entry.owner.done()]
        for entry in lost:
            self._withdraw(entry)
        return len(lost)

    def estimate_wait(self) -> float:
        """Return in how many seconds a request that came now would have its turn, by what was measured."""
        return self.rate.estimate(self.waiting + 1, slots=sum(worker.slots for worker in self._workers()))

    def _entries(self) -> Iterator[_Entry]:
        yield from self._queue
        yield from self._suspects

    def _place(self, job: Job, owner: asyncio.Task[Any]) -> Slot | None:
        candidates = [
            worker
            for worker in self._workers()
            if worker is not self._reserved and (worker is not job.excluded or self._is_alone(worker))
        ]
        if len(candidates) == 1:
            index = 0 if candidates[0].is_free else None
        else:
            index = choose_worker([_view(worker, job.prompt) for worker in candidates])
        if index is None:
            return None
        self._given_at = self._loop.time()
        return candidates[index].take(job, owner, now=self._given_at)

    def _dispatch_suspects(self) -> None:
        """Give the first suspect a worker of its own, once that has nothing else to do."""
        while self._suspects and self._suspects[0].turn.done():
            self._suspects.popleft()
        if not self._suspects or any(worker.has_suspect for worker in self._workers()):
            self._reserved = None
            return
        job = self._suspects[0].job
        usable = [worker for worker in self._workers() if worker.is_usable]
        # Of several, one that has not failed at it, and which is free soonest; the same as before unless one is freer.
        held = self._reserved
        worker = min(usable, key=lambda one: (one is job.excluded, one.busy, one is not held), default=None)
        self._reserved = worker
        if worker is not None and not worker.busy:
            self._reserved = None
            entry = self._suspects.popleft()
            self._given_at = self._loop.time()
            entry.turn.set_result(worker.take(job, entry.owner, now=self._given_at))

    def _is_alone(self, worker: Worker) -> bool:
        return not any(other.is_expected for other in self._workers() if other is not worker)

    def _enqueue(self, job: Job) -> _Entry:
        if not any(worker.is_expected for worker in self._workers()):
            raise self._unavailable()
        if self.waiting >= self.max_queued or self.waiting_tokens + job.tokens > self.max_queued_tokens:
            raise self._full(job)
        if self._loop.time() + self.estimate_wait() > job.deadline:
            raise self._late("would pass before")
        order = (-job.priority, next(self._numbers))
        entry = _Entry(order, job, current_task(), self._loop.create_future(), since=self._loop.time())
        if job.is_suspect:
            self._suspects.append(entry)
        else:
            insort(self._queue, entry)
        return entry

    def _withdraw(self, entry: _Entry) -> None:
        """Take a job out of the queue, or give back the slot that it was given in the same moment."""
        if entry in self._suspects:
            self._suspects.remove(entry)
        elif entry in self._queue:
            self._queue.remove(entry)
        elif entry.turn.done() and not entry.turn.cancelled() and entry.turn.exception() is None:
            entry.turn.result().release()
        self.dispatch()

    def _latest(self, job: Job, now: float) -> float:
        if any(worker.is_ready for worker in self._workers()):
            return min(job.deadline, now + 10 * _MAX_RETRY_AFTER)
        return min(job.deadline, now + _LONGEST_WAIT_FOR_A_WORKER)

    def _give_up(self, entry: _Entry) -> None:
        if not entry.turn.done():
            can_answer = any(worker.is_ready for worker in self._workers())
            entry.turn.set_exception(self._late("passed before") if can_answer else self._unavailable())

    def _refuse_all(self) -> None:
        for entry in self._entries():
            if not entry.turn.done():
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
