"""When a llama-server that ended is started anew: soon, then later and later, and not for ever."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Restarts"]

_FIRST_DELAY = 0.1
_LONGEST_DELAY = 10.0
_BUDGET = 5
_WINDOW = 60.0
"""Seconds in which there may be _BUDGET starts; also how long a server must run for its past to be forgotten."""


@dataclass(slots=True)
class Restarts:
    """The starts and ends so far; times are those of ``time.monotonic``."""

    starts: list[float] = field(default_factory=list)
    """Those of the last minute."""
    in_a_row: int = 0
    """Ends without a minute of life in between."""

    def note_start(self, now: float) -> None:
        """Take a start."""
        self.starts = [*(at for at in self.starts if now - at < _WINDOW), now]

    def choose_delay(self, now: float) -> float | None:
        """Return the seconds to wait before the next start, after an end at ``now``; None where the budget is spent."""
        if self.starts and now - self.starts[-1] >= _WINDOW:
            self.in_a_row = 0
        self.in_a_row += 1
        if sum(now - at < _WINDOW for at in self.starts) >= _BUDGET:
            return None
        # The exponent is bounded, or the power would become too large for a float in the end.
        return min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** min(self.in_a_row - 1, 10))
