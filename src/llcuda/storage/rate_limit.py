"""A limit on how many bytes a second all connections of a transfer take together."""

from __future__ import annotations

import threading
import time

__all__ = ["RateLimit"]


class RateLimit:
    """Lets bytes pass, and waits if more of them came than a second may have."""

    def __init__(self, bytes_per_second: int | None = None) -> None:
        """Allow so many bytes a second; None allows any number."""
        self._rate = bytes_per_second
        self._lock = threading.Lock()
        self._free_at = 0.0

    def pass_on(self, count: int) -> None:
        """Wait until bytes that have come, or go now, are within the limit."""
        if self._rate is None:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + count / self._rate
            wait = self._free_at - now
        time.sleep(wait)
