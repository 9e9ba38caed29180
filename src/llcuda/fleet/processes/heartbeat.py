"""Ask one llama-server for its health, again and again, and say when it falls silent and when it is back.

Its health check is answered by another thread than the one that computes, so it is answered in the midst of a long
prompt, too. What it does not show is a computation that never ends; that shows in the requests alone.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from llcuda.errors import ConnectionFailedError, RequestTimeoutError
from llcuda.fleet.states import State
from llcuda.transport.aio import AsyncTransport
from llcuda.transport.deadline import Deadline

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from llcuda.transport.address import Address

__all__ = ["Heartbeat", "Pulse", "WatchedServer"]

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

    def judge(self, now: float) -> bool:
        """Look again whether it is silent, and return whether it is to be given up."""
        if self.asked is None:
            return False
        if now >= self._silent_at(self.asked):
            self.is_silent, self.good_in_a_row = True, 0
        return now >= self._lost_at(self.asked)

    def next_look(self, now: float) -> float:
        """Return the seconds after which it would have to be judged again, while a question is open."""
        asked = now if self.asked is None else self.asked
        due = self._lost_at(asked)
        return max(0.0, (due if self.is_silent else min(due, self._silent_at(asked))) - now)

    def _silent_at(self, asked: float) -> float:
        return max(self.last_life + SILENT_AFTER, asked + _ASKED_FOR)

    def _lost_at(self, asked: float) -> float:
        return max(self.last_life + self.hang_timeout, asked + _ASKED_FOR)


class Heartbeat:
    """The watch over one server, from when it is ready until it is given up."""

    def __init__(
        self,
        address: Address,
        *,
        hang_timeout: float,
        find_life: Callable[[], float],
        on_silence: Callable[[bool], object],
        ends_if_refused: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Prepare; ``on_silence`` is called with True when it falls silent, and with False when it is back.

        ``find_life`` says when others have last heard of it. ``ends_if_refused`` is for a process that nobody else
        watches: it has ended if nobody listens any more.
        """
        self._transport = AsyncTransport(address, api_key=None, user_agent="llcuda", tls=tls)
        self._find_life = find_life
        self._pulse = Pulse(monotonic(), hang_timeout)
        self._on_silence = on_silence
        self._was_silent = False
        self._ends_if_refused = ends_if_refused
        self.was_refused = False
        """Whether nobody listens there."""

    async def run(self) -> None:
        """Watch, and return when the server has given no sign of life for ``hang_timeout`` seconds."""
        try:
            while True:
                if await self._ask():
                    return
                await self._pause()
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
            elif self.was_refused and self._ends_if_refused:
                return True
        finally:
            probe.cancel()
        return self._judge()

    async def _wait(self, probe: asyncio.Future[bool]) -> bool:
        """Wait until the answer is there or the server must be judged, and return whether it is to be given up."""
        now = monotonic()
        self._pulse.note_life(self._find_life())
        patience = self._pulse.next_look(now)
        await asyncio.wait({probe}, timeout=patience)
        if probe.done() or self._was_late(now + patience):
            return False
        return self._judge()

    async def _pause(self) -> None:
        due = monotonic() + PROBE_INTERVAL
        await asyncio.sleep(PROBE_INTERVAL)
        self._was_late(due)

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
        self._pulse.note_life(self._find_life())
        is_lost = self._pulse.judge(monotonic())
        if self._pulse.is_silent is not self._was_silent:
            self._was_silent = self._pulse.is_silent
            self._on_silence(self._was_silent)
        return is_lost


class WatchedServer:
    """A llama-server in a :class:`~llcuda.fleet.states.State`, here or on another machine."""

    tls: ssl.SSLContext | None = None
    """What connections to it are made with, if it is behind TLS."""

    def __init__(self, on_change: Callable[[Any], object]) -> None:
        """Be stopped; ``on_change`` is called on the loop at each change of the state."""
        self.state = State.STOPPED
        self.heard_at = 0.0
        """When bytes last came from it, as ``time.monotonic`` counts."""
        self._on_change = on_change

    def give_up(self, reason: str) -> None:
        """End it and start it anew, if it is a process of this machine."""

    def drain(self) -> None:
        """Let it be asked no more. What it has begun goes on until it is stopped."""
        if self.state in {State.READY, State.SILENT}:
            self._set(State.DRAINING)

    def _note_silence(self, is_silent: bool) -> None:  # noqa: FBT001 - a callback
        if is_silent and self.state is State.READY:
            self._set(State.SILENT)
        elif not is_silent and self.state is State.SILENT:
            self._set(State.READY)

    def _set(self, state: State) -> None:
        if state is not self.state:
            self.state = state
            self._on_change(self)
