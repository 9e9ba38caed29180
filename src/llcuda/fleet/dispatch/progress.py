"""Whether a llama-server gets on with what it was asked, which its health check does not show.

Its health check is answered by another thread than the one that computes. That one answers ``/slots``, between two
batches, with how far each slot has come.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

from llcuda.fleet.dispatch.worker import fetch
from llcuda.fleet.processes import heartbeat
from llcuda.fleet.processes.process_usage import read_main_thread_seconds, read_seconds_without_core

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llcuda.fleet.dispatch.worker import Slot, Worker

    _Step = tuple[int, int, int]

__all__ = ["Progress"]

_QUIET = 1.0
"""Seconds without a byte of an answer after which the server is asked how far it is."""
_LEAVING_SECONDS = 1.0
"""In which the server notices that a client has left: it takes 20 ms, unless it is kept from it."""
_BATCH_TOKENS = 2048
"""llama-server's ``--batch-size``: of prompts it reads so many tokens, and then looks at what it is asked."""
_SECONDS_PER_PROMPT_TOKEN = 0.2
"""Two cores read 8 tokens a second of a prompt with a model of seven billion weights."""


class _Moment(NamedTuple):
    at: float
    computed: float
    """Seconds for which the first of the threads that compute has run."""
    starved: float
    """Seconds for which its threads could have run and had no core, of all together."""


class Progress:
    """The watch over one worker, which is given up, and started anew, if it does not get on for ``hang_timeout``.

    That is: it does not look at what it is asked, not counting the time that reading a prompt may take; a slot of it
    makes no token and reads no prompt; or it computes, and nothing of the gateway's is under way there.

    Time counts in which it computes and none of its threads waits for a core, and a sixth of the rest: on a machine
    with much else to do a token takes as long as it takes. That its first thread runs tells nothing by itself: it may
    spin until another one, which has no core, has done its part.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self._probe: asyncio.Task[None] | None = None
        self._asked: _Moment | None = None
        """When it was first asked of what it has not answered."""
        self._idle: _Moment | None = None
        """When it was first seen to compute while nothing of the gateway's was under way."""
        self._moved = 0.0
        self._steps: dict[int, _Step] = {}
        """How far each slot that is in use was, by its number."""
        self._since: dict[int, _Moment] = {}
        """When that was seen first."""

    @property
    def moved_at(self) -> float:
        """The loop's time at which it was last seen to get on."""
        return max([self._moved, *(slot.heard_at for slot in self._worker.taken)])

    def look(self) -> None:
        """Ask it, if there is reason to, and give it up if it does not get on; to be called once a second."""
        worker = self._worker
        if not worker.is_ready:
            self._forget()
            return
        if worker.taken:
            self._idle = None
        if self._asked is not None:
            self._judge(self._asked, "it has not looked at what it is asked", patience=self._count_patience())
        if self._probe is None and (self._is_quiet() or not worker.is_settled):
            self._asked = self._asked or self._measure()
            self._probe = self._loop.create_task(self._ask())

    def _is_quiet(self) -> bool:
        return any(self._loop.time() - slot.heard_at > _QUIET for slot in self._worker.taken)

    def _count_patience(self) -> float:
        """Return the seconds that one batch of the prompts takes that may be read just now."""
        tokens = self._worker.unread_tokens + sum(slot.prompt_tokens for slot in self._worker.taken)
        return min(tokens, _BATCH_TOKENS) * _SECONDS_PER_PROMPT_TOKEN

    async def _ask(self) -> None:
        taken = set(self._worker.taken)
        try:
            answer = await fetch(self._worker, "/slots", patience=None)
            if answer is None:
                return
            slots = await asyncio.to_thread(json.loads, answer.body) if answer.status == HTTPStatus.OK else []
        finally:
            self._probe = None
        self._asked, self._worker.unread_tokens = None, 0
        steps = {slot["id"]: _read_step(slot) for slot in slots if slot["is_processing"]}
        self._note_read(taken, steps)
        self._compare(steps)

    def _note_read(self, taken: set[Slot], steps: Mapping[int, _Step]) -> None:
        """Note whose prompts have been read, of those whose answers come whole: nothing of them is heard before."""
        worker = self._worker
        texts = sum(slot.job.texts for slot in taken | worker.taken)
        # It does not say whose a slot is, so each has to have begun, and none may belong to somebody who has left.
        has_left = self._loop.time() - worker.left_at < _LEAVING_SECONDS
        if not has_left and sum(step[-1] > 0 for step in steps.values()) >= texts:
            for slot in taken:
                slot.prompt_tokens = 0

    def _compare(self, steps: dict[int, _Step]) -> None:
        """Judge by how far the slots are that are in use."""
        now = self._measure()
        before, self._steps = self._steps, steps
        # One that has nothing to do does not get on: what is taken of it then is held in vain.
        if any(before.get(number) != step for number, step in steps.items()):
            self._moved = now.at
        # One whose prompt has no place in a batch, or is another's too, stands still while others' prompts are read.
        is_reading = any(_has_read(before.get(number), step) for number, step in steps.items())
        self._since = {
            number: now if is_reading or before.get(number) != step else self._since.get(number, now)
            for number, step in steps.items()
        }
        worker = self._worker
        for since in self._since.values():
            self._judge(since, "a slot has made no token")
        if worker.taken:
            return
        if steps:
            self._idle = self._idle or now
            self._judge(self._idle, "it has computed what nobody waits for")
        else:
            worker.settle()
            self._idle = None

    def _judge(self, since: _Moment, reason: str, *, patience: float = 0.0) -> None:
        now, worker = self._measure(), self._worker
        seconds = now.at - since.at
        computed = min(now.computed - since.computed, seconds - (now.starved - since.starved))
        lost = max(computed, seconds / heartbeat.BUSY_MACHINE)
        if lost > worker.server.hang_timeout + patience and worker.is_ready:
            worker.server.give_up(f"{reason} for {seconds:.0f} s")
            self._forget()

    def _measure(self) -> _Moment:
        pid = self._worker.server.pid
        return _Moment(self._loop.time(), read_main_thread_seconds(pid) or 0.0, read_seconds_without_core(pid))

    def _forget(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
        self._asked = self._idle = None
        self._steps, self._since = {}, {}


def _read_step(slot: dict[str, Any]) -> _Step:
    """Return which task a slot has, and how many tokens it has read of its prompt and made of its answer."""
    token = (slot.get("next_token") or [{}])[0]
    return slot.get("id_task", -1), slot.get("n_prompt_tokens_processed", 0), token.get("n_decoded", 0)


def _has_read(before: _Step | None, step: _Step) -> bool:
    """Tell whether a slot has read some of a prompt since: its answer has not begun, or had not then."""
    return before is None or before[0] != step[0] or (before != step and 0 in {before[-1], step[-1]})
