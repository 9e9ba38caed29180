"""Whether a llama-server lives, judged by when it was asked and when it last gave a sign: numbers, no clock.

Its health check is answered by another thread than the one that computes, so it is answered in the midst of a long
prompt, too. What it does not show is a computation that never ends; that shows in the requests alone.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Pulse"]

SILENT_AFTER = 0.75
"""Seconds without any sign of life after which a server is silent."""
_ASKED_FOR = 0.4
"""Seconds for which a question must have been open, so that it is not the asking that was late."""
_GOOD_IN_A_ROW = 2


@dataclass(slots=True)
class Pulse:
    """What is known of one server; times are those of ``time.monotonic``."""

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
        """Take any other sign of life: bytes of an answer."""
        self.last_life = now
        if self.asked is not None:
            self.asked = now

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
