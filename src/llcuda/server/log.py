"""llama-server's log: always drained, kept in a bounded ring, and watched for the line that says where it listens."""

from __future__ import annotations

import re
import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_LINES = 4000
MAX_LINE_BYTES = 8192

# Printed by tools/server/server.cpp after the model is loaded. The whole prefix, so that a name inside a model's
# metadata, which is logged too, cannot pose as it.
_LISTENING = re.compile(rb"\d+\.\d\d\.\d{3}\.\d{3} I srv +llama_server: listening on (http://\S+:[1-9]\d*|unix:///.+\.sock)$")


class Log:
    """The last lines that llama-server printed, with the address that it listens on.

    One thread feeds it; any thread reads it. A line longer than MAX_LINE_BYTES is cut.
    """

    def __init__(self, on_line: Callable[[str], object] | None = None) -> None:
        """Call ``on_line`` with every line, on the thread that feeds."""
        self._lines: deque[bytes] = deque(maxlen=MAX_LINES)
        self._rest = bytearray()
        self._on_line = on_line
        self._changed = threading.Condition()
        self.count = 0
        """The number of lines so far: it grows while llama-server makes progress."""
        self.address: str | None = None
        self.ended = False

    def lines(self, count: int = MAX_LINES) -> tuple[str, ...]:
        """Return the last ``count`` lines, without their line ends."""
        kept = [*self._lines, bytes(self._rest)] if self._rest else list(self._lines)
        return tuple(line.decode("utf-8", "replace") for line in kept[-count:])

    def wait(self, timeout: float) -> None:
        """Wait until the address is known or the log has ended, at most ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self.address is not None or self.ended, timeout)

    def feed(self, data: bytes) -> None:
        """Take what was read from the pipe."""
        first, *others = data.split(b"\n")
        self._extend(first)
        for part in others:
            self._end_line()
            self._extend(part)

    def finish(self) -> None:
        """Say that nothing more will come."""
        if self._rest:
            self._end_line()
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    def _extend(self, part: bytes) -> None:
        room = MAX_LINE_BYTES - len(self._rest)
        if room > 0:
            self._rest += part[:room]

    def _end_line(self) -> None:
        line = bytes(self._rest).rstrip(b"\r")
        self._rest.clear()
        self._lines.append(line)
        self.count += 1
        if self.address is None:
            self._find_address(line)
        if self._on_line:
            self._on_line(line.decode("utf-8", "replace"))

    def _find_address(self, line: bytes) -> None:
        found = _LISTENING.match(line)
        if found:
            with self._changed:
                self.address = found[1].decode("utf-8", "replace")
                self._changed.notify_all()
