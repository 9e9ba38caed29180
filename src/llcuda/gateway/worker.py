"""One replica as the gateway uses it: its connections, its slots, its prompts, and whether it is to be trusted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from llcuda.gateway.balance import Prompt, PromptMemory
from llcuda.gateway.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Server", "Worker"]

_GONE = frozenset({"waiting", "failed", "stopping", "stopped"})
_FIRST_REST, _LONGEST_REST = 0.5, 10.0  # seconds


class Server(Protocol):
    """What a worker needs to know of its llama-server; :class:`llcuda.gateway.replica.Replica` is one."""

    name: str
    state: str
    socket_path: Path
    api_key: str
    slots: int

    def note_life(self) -> None:
        """Take note that it has said something."""


class Worker:
    """A llama-server with so many slots, of which ``busy`` are in use.

    It rests after a failure, longer each time until it has answered again: a process that runs and answers its health
    check may still answer nothing else.
    """

    def __init__(self, server: Server, *, on_free: Callable[[], object]) -> None:
        """Connect to nothing yet; ``on_free`` is called when it can be used again."""
        self.server = server
        self.slots = server.slots
        self.busy = 0
        self.memory = PromptMemory()
        self.last_new = 0.0
        self.answered = self.failed = 0
        self.draining = False
        self._on_free = on_free
        self._loop = asyncio.get_running_loop()
        self._upstream: Upstream | None = None
        self._rest = _FIRST_REST
        self._rests_until = 0.0

    @property
    def is_ready(self) -> bool:
        """Whether its llama-server answers."""
        return self.server.state == "ready" and not self.draining

    @property
    def is_free(self) -> bool:
        """Whether it can take a request now."""
        return self.busy < self.slots and self.is_ready and self._loop.time() >= self._rests_until

    @property
    def is_expected(self) -> bool:
        """Whether it is worth waiting for."""
        return not self.draining and self.server.state in {"ready", "starting", "silent", "waiting"}

    @property
    def upstream(self) -> Upstream:
        """Its connections."""
        if self._upstream is None:
            server = self.server
            self._upstream = Upstream(str(server.socket_path), api_key=server.api_key, on_life=server.note_life)
        return self._upstream

    def take(self, prompt: Prompt, now: float) -> None:
        """Occupy a slot with a prompt."""
        self.busy += 1
        if prompt.links:
            if not prompt.rate(self.memory.match(prompt.links)):
                self.last_new = now
            self.memory.add(prompt.links)

    def note_answer(self) -> None:
        """Trust it again."""
        self.answered += 1
        self._rest = _FIRST_REST

    def note_failure(self) -> None:
        """Let it rest; what fails while it rests was begun before, and is the same failure."""
        self.failed += 1
        if self._loop.time() < self._rests_until:
            return
        self._rests_until = self._loop.time() + self._rest
        self._loop.call_later(self._rest, self._on_free)
        self._rest = min(2 * self._rest, _LONGEST_REST)

    def forgive(self) -> None:
        """Take back a failure: it was the request's fault."""
        self.failed -= 1
        self._rest, self._rests_until = _FIRST_REST, 0.0
        self._on_free()

    def note_state(self) -> None:
        """Follow its llama-server: a dead one has no connections and no prompts."""
        if self.server.state == "ready":
            self._rests_until = 0.0
            self._on_free()
        elif self.server.state in _GONE:
            self.drop()

    def drop(self) -> None:
        """Cut its connections; requests on them are answered elsewhere."""
        if self._upstream is not None:
            self._upstream.close()
            self._upstream = None
        self.memory.clear()
