"""One server as the gateway uses it: its connections, its slots, its prompts, and whether it is to be trusted."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llcuda.fleet.dispatch.balance import Prompt, PromptMemory
from llcuda.fleet.dispatch.upstream import PlainAnswer, Upstream, UpstreamFailedError
from llcuda.fleet.states import DEAD, EXPECTED, GONE, State
from llcuda.fleet.timeouts import timeout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import Self

    from llcuda.fleet.states import WatchedServer

__all__ = ["Job", "Slot", "Worker", "fetch"]

_MAX_ABANDONED = 256
_LONGEST_DEATH = 5.0  # seconds for the kernel to end a process, and write its core
_FIRST_REST, _LONGEST_REST = 0.5, 10.0  # seconds


@dataclass(slots=True)
class Job:
    """One request as the queue sees it."""

    prompt: Prompt = field(default_factory=Prompt)
    prompt_tokens: int = 0
    """Estimated."""
    tokens: int = 0
    """Estimated, of prompt and answer."""
    texts: int = 1
    """How many are made for it: llama-server has a slot for each."""
    priority: int = 0
    deadline: float = math.inf
    """The loop's time after which nobody waits for the answer any more."""
    excluded: Worker | None = None
    """The worker that has failed at it."""
    is_suspect: bool = False
    """Whether it may be what ended a worker: it has a worker to itself, and no other suspect is answered meanwhile."""
    queued: float = 0.0
    """Seconds that it has waited."""


class Slot:
    """A slot of a worker in the hands of one task, which gives it back at the end of a ``with`` block."""

    __slots__ = ("_death", "_loop", "heard_at", "job", "owner", "prompt_tokens", "worker")

    def __init__(self, worker: Worker, job: Job, owner: asyncio.Task[Any], *, now: float) -> None:
        self._loop = worker.loop
        self.worker = worker
        self.job = job
        self.owner = owner
        self.heard_at = now
        """The loop's time at which bytes of its answer last came, or when it was taken."""
        self.prompt_tokens = job.prompt_tokens
        """Estimated tokens of a prompt that may still be read: 0 once it is known that it has been."""
        self._death = worker.death

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.worker.give_back(self)

    def note_life(self) -> None:
        """Take note that bytes of its answer have come, so that its prompt has been read."""
        self.prompt_tokens = 0
        self.heard_at = self.worker.server.heard_at = self._loop.time()

    @property
    def was_killed(self) -> bool:
        """Whether that was somebody else's doing; to be asked once it has died."""
        return self._death.result()

    @property
    def was_cut_off(self) -> bool:
        """Whether its server fell silent on another machine, which no request can be blamed for."""
        return self.worker.server.is_remote and self._death.done() and self.was_killed

    async def has_died(self) -> bool:
        """Tell whether its llama-server has ended since; a connection breaks off before the end of a process shows."""
        await asyncio.wait((self._death,), timeout=_LONGEST_DEATH)
        return self._death.done()

    def release(self) -> None:
        """Give it back to whoever is next; a second time does nothing."""
        self.worker.give_back(self)


class Worker:
    """A server, and the slots of it that are taken.

    It rests after a failure, longer each time until it has answered again: a process that runs and answers its health
    check may still answer nothing else.
    """

    def __init__(
        self,
        server: WatchedServer,
        *,
        on_free: Callable[[], object],
        on_death: Callable[[Iterable[int]], object] = lambda _: None,
    ) -> None:
        """Connect to nothing yet.

        ``on_free`` is called when it can be used again, ``on_death`` when its llama-server has ended by itself, with
        the requests that were given up and that it may still have computed.
        """
        self.server = server
        self.taken: set[Slot] = set()
        self.is_settled = True
        """Whether its llama-server was seen to have nothing to do since a slot was last taken."""
        self.unread_tokens = 0
        """Estimated tokens of prompts that it may still read for nobody."""
        self.memory = PromptMemory()
        self.last_new = 0.0
        self.answered = self.failed = 0
        self.draining = False
        self._on_free = on_free
        self._on_death = on_death
        self._abandoned: dict[int, None] = {}
        self.left_at = -math.inf
        """The loop's time at which somebody last gave up what it was computing."""
        self.loop = asyncio.get_running_loop()
        self._upstream: Upstream | None = None
        self._rest = _FIRST_REST
        self._rests_until = 0.0
        self.death: asyncio.Future[bool] = self.loop.create_future()
        """Done when its llama-server has ended, with whether it was killed; there is another one for the next."""

    @property
    def slots(self) -> int:
        """How many requests it answers at a time."""
        return self.server.slots

    @property
    def busy(self) -> int:
        """How many of its slots are taken."""
        return len(self.taken)

    @property
    def is_ready(self) -> bool:
        """Whether its llama-server may be asked."""
        return self.server.state is State.READY and not self.draining

    @property
    def is_usable(self) -> bool:
        """Whether it may be asked, be it full or not."""
        return self.is_ready and self.loop.time() >= self._rests_until

    @property
    def has_suspect(self) -> bool:
        """Whether it answers a request that nothing else is to be beside."""
        return len(self.taken) == 1 and next(iter(self.taken)).job.is_suspect

    @property
    def is_free(self) -> bool:
        """Whether it can take a request now."""
        server = self.server
        is_usable = server.state is State.READY and not self.draining and self.loop.time() >= self._rests_until
        return is_usable and len(self.taken) < server.slots and not self.has_suspect

    @property
    def is_expected(self) -> bool:
        """Whether it is worth waiting for."""
        return not self.draining and self.server.state in EXPECTED

    @property
    def upstream(self) -> Upstream:
        """Its connections."""
        if self._upstream is None:
            server = self.server
            self._upstream = Upstream(server.address, api_key=server.api_key, on_life=self.note_life, tls=server.tls)
        return self._upstream

    def note_life(self) -> None:
        """Take note that bytes have come from it."""
        self.server.heard_at = self.loop.time()

    def take(self, job: Job, owner: asyncio.Task[Any], *, now: float) -> Slot:
        """Let ``owner`` have a slot for a job."""
        slot = Slot(self, job, owner, now=now)
        self.taken.add(slot)
        self.is_settled = False
        prompt = job.prompt
        if prompt.links:
            if not prompt.rate(self.memory.match(prompt.links)):
                self.last_new = now
            self.memory.add(prompt.links)
        return slot

    def give_back(self, slot: Slot) -> None:
        """Take a slot back."""
        if slot in self.taken:
            self.taken.discard(slot)
            self.unread_tokens += slot.prompt_tokens
            self._on_free()

    def drop_lost(self) -> int:
        """Take back the slots whose tasks have ended, and return how many there were: none, but for a mistake."""
        lost = [slot for slot in self.taken if slot.owner.done()]
        for slot in lost:
            self.give_back(slot)
        return len(lost)

    def note_abandoned(self, request: int) -> None:
        """Take note that nobody waits any more for what it may still compute."""
        self.left_at = self.loop.time()
        self._abandoned[request] = None
        if len(self._abandoned) > _MAX_ABANDONED:
            del self._abandoned[next(iter(self._abandoned))]

    def settle(self) -> None:
        """Take note that its llama-server has nothing to do."""
        self.is_settled = True
        self._abandoned.clear()

    def note_answer(self) -> None:
        """Trust it again."""
        self.answered += 1
        self._rest = _FIRST_REST

    def note_failure(self) -> None:
        """Let it rest; what fails while it rests was begun before, and is the same failure."""
        self.failed += 1
        if self.loop.time() < self._rests_until:
            return
        self._rests_until = self.loop.time() + self._rest
        self.loop.call_later(self._rest, self._on_free)
        self._rest = min(2 * self._rest, _LONGEST_REST)

    def forgive(self) -> None:
        """Take back a failure: it was the request's fault."""
        self.failed -= 1
        self._rest, self._rests_until = _FIRST_REST, 0.0
        self._on_free()

    def note_state(self) -> None:
        """Follow its llama-server: a dead one has no connections and no prompts."""
        if self.server.state is State.READY:
            self._rests_until = 0.0
            self._on_free()
        elif self.server.state in GONE:
            self.drop()
        if self.server.state in DEAD:
            if not self.server.is_remote:
                self._on_death(tuple(self._abandoned))
            self._abandoned.clear()
            self.death.set_result(self.server.was_killed)
            self.death = self.loop.create_future()

    def drop(self) -> None:
        """Cut its connections; requests on them are answered elsewhere."""
        if self._upstream is not None:
            self._upstream.close()
            self._upstream = None
        self.unread_tokens = 0
        self.memory.clear()

    def leave(self) -> None:
        """Take no more requests, and cut what is left: its llama-server is there no more."""
        self.draining = True
        self.drop()


async def fetch(worker: Worker, path: str, *, patience: float | None = 2.0) -> PlainAnswer | None:
    """Return a worker's answer to a GET, None if it has none within so many seconds."""
    reception = PlainAnswer()
    try:
        async with timeout(patience):
            await worker.upstream.exchange("GET", path, reception)
    except (UpstreamFailedError, asyncio.TimeoutError):
        return None
    return reception
