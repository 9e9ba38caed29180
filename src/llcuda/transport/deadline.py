"""The time that one request may take, from connecting to its last byte."""

from __future__ import annotations

from time import monotonic

from llcuda.errors import RequestTimeoutError, UsageError

_LONGEST_WAIT = 1e6  # seconds; a socket takes no infinite time-out other than None


class Deadline:
    """A point in time after which a request has failed."""

    __slots__ = ("_end", "started", "timeout")

    def __init__(self, timeout: float) -> None:
        """Start the clock; ``timeout`` is in seconds, ``math.inf`` for no limit.

        Raises UsageError for a time-out that is not above zero.
        """
        if not timeout > 0:
            raise UsageError(f"timeout={timeout!r} is not a number of seconds above 0")
        self.timeout = timeout
        self.started = monotonic()
        self._end = self.started + timeout

    def remaining(self) -> float:
        """Return the seconds that are left, raising RequestTimeoutError if there are none."""
        left = self._end - monotonic()
        if left <= 0:
            raise self.error()
        return min(left, _LONGEST_WAIT)

    def left(self) -> float:
        """Return the seconds that are left, 0 if there are none."""
        return max(0.0, self._end - monotonic())

    def error(self) -> RequestTimeoutError:
        """Return the error to raise when time is up."""
        return RequestTimeoutError(f"no complete answer within {self.timeout:g} s", timeout=self.timeout)
