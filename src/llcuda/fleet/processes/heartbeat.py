"""Ask one server for its health, again and again, and say when it falls silent and when it is back.

llama-server answers its health check on another thread than the one that computes, so in the midst of a long prompt,
too. A computation that never ends shows in the requests alone: see :mod:`llcuda.fleet.dispatch.progress`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from llcuda.errors import ConnectionFailedError, RequestTimeoutError
from llcuda.fleet.processes.process_usage import read_seconds_without_core
from llcuda.transport.aio import AsyncTransport
from llcuda.transport.deadline import Deadline

if TYPE_CHECKING:
    from llcuda.fleet.states import WatchedServer

__all__ = ["Heartbeat", "Pulse"]

PROBE_INTERVAL = 0.25
_LATE = 0.1
"""Seconds that a timer may be late before the time counts as one in which this process did not run."""
_HTTP_OK = 200
_MAX_BYTES = 64 << 10
SILENT_AFTER = 0.75
"""Seconds without any sign of life after which a server is silent."""
_ASKED_FOR = 0.4
"""Seconds for which a question must have been open, so that it is not the asking that was late."""
_GOOD_IN_A_ROW = 2
BUSY_MACHINE = 6
"""How many times longer a server may take that has no core, because others have the machine."""


@dataclass(slots=True)
class Pulse:
    """Whether one server lives: numbers, no clock; times are those of ``time.monotonic``."""

    last_life: float
    hang_timeout: float
    asked: float | None = None
    """When the first question since then was asked that is still open."""
    is_silent: bool = False
    good_in_a_row: int = 0

    def note_question(self, now: float) -> None:
        """Take that it is asked for its health."""
        if self.asked is None:
            self.asked = now

    def note_answer(self, now: float) -> None:
        """Take that it says that it is well; what was silent is believed the second time."""
        self.last_life, self.asked = now, None
        self.good_in_a_row += 1
        if self.good_in_a_row >= _GOOD_IN_A_ROW:
            self.is_silent = False

    def note_life(self, now: float) -> None:
        """Take any other sign of life: bytes of an answer, which came at ``now`` or were known of already."""
        self.last_life = max(self.last_life, now)
        if self.asked is not None:
            self.asked = max(self.asked, now)

    def skip(self, seconds: float) -> None:
        """Leave out a time in which this process did not run, so that nothing could be seen of the server."""
        self.last_life += seconds
        if self.asked is not None:
            self.asked += seconds

    def judge(self, now: float, *, starved: float = 0.0) -> bool:
        """Look again whether it is silent, and return whether it is to be given up.

        ``starved`` seconds since the last sign of life do not count for that, but a sixth of the whole time always
        does: a server that has no core does not answer, and has not ended.
        """
        if self.asked is None:
            return False
        if now >= self._silent_at(self.asked):
            self.is_silent, self.good_in_a_row = True, 0
        silence = now - self.last_life
        counted = max(silence - starved, silence / BUSY_MACHINE) if starved else silence
        return counted >= self.hang_timeout and now >= self.asked + _ASKED_FOR

    def next_look(self, now: float) -> float:
        """Return the seconds after which it has to be judged again, while a question is open."""
        asked = now if self.asked is None else self.asked
        return PROBE_INTERVAL if self.is_silent else max(0.0, self._silent_at(asked) - now)

    def _silent_at(self, asked: float) -> float:
        return max(self.last_life + SILENT_AFTER, asked + _ASKED_FOR)


class Heartbeat:
    """The watch over one server, from when it is ready until it is given up."""

    def __init__(self, server: WatchedServer) -> None:
        self._server = server
        self._transport = AsyncTransport(server.address, api_key=None, user_agent="llcuda", tls=server.tls)
        self._pulse = Pulse(monotonic(), server.hang_timeout)
        self._was_silent = False
        self._life = self._starved = 0.0
        self.was_refused = False
        """Whether nobody listens there."""

    async def run(self) -> None:
        """Watch, and return when the server has given no sign of life for its ``hang_timeout``.

        Of another machine, it has also ended if nobody listens any more; here, its process is watched.
        """
        try:
            while not await self._ask():
                due = monotonic() + PROBE_INTERVAL
                await asyncio.sleep(PROBE_INTERVAL)
                self._was_late(due)
        finally:
            self._transport.close()

    async def _ask(self) -> bool:
        """Ask once, wait for the answer, and return whether the server is to be given up."""
        self._pulse.note_question(monotonic())
        probe = asyncio.ensure_future(self._probe())
        try:
            while not probe.done():
                if await self._wait(probe):
                    return True
            if probe.result():
                self._pulse.note_answer(monotonic())
            elif self.was_refused and self._server.is_remote:
                return True
        finally:
            probe.cancel()
        return self._judge()

    async def _wait(self, probe: asyncio.Future[bool]) -> bool:
        """Wait until the answer is there or the server must be judged, and return whether it is to be given up."""
        now = monotonic()
        self._pulse.note_life(self._server.heard_at)
        patience = self._pulse.next_look(now)
        await asyncio.wait({probe}, timeout=patience)
        if probe.done() or self._was_late(now + patience):
            return False
        return self._judge()

    def _was_late(self, due: float) -> bool:
        """Return whether this process did not run when it was due; nothing that it missed counts then."""
        late = monotonic() - due
        if late > _LATE:
            self._pulse.skip(late)
        return late > _LATE

    async def _probe(self) -> bool:
        deadline = Deadline(self._pulse.hang_timeout)
        try:
            exchange = await self._transport.exchange("GET", "/health", body=None, deadline=deadline)
            await exchange.read_all(max_bytes=_MAX_BYTES)
        except (ConnectionFailedError, RequestTimeoutError) as error:
            self.was_refused = isinstance(error, ConnectionFailedError) and error.refused
            return False
        return exchange.status == _HTTP_OK

    def _judge(self) -> bool:
        pulse = self._pulse
        pulse.note_life(self._server.heard_at)
        is_lost = pulse.judge(monotonic(), starved=self._count_starved())
        if pulse.is_silent is not self._was_silent:
            self._was_silent = pulse.is_silent
            self._count_starved()
            self._server.note_silence(is_silent=pulse.is_silent)
        return is_lost

    def _count_starved(self) -> float:
        """Return the seconds for which it had no core since its last sign of life, or since it fell silent after it."""
        if not self._pulse.is_silent:
            return 0.0
        starved = read_seconds_without_core(self._server.pid)
        if self._life != self._pulse.last_life:
            self._life, self._starved = self._pulse.last_life, starved
        return starved - self._starved
