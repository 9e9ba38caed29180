"""The faults that stub_engine.py can be put into while it runs, by ``POST /stub`` with ``{"fault": NAME}``.

========  ==========================================================================================
error     what is asked for gets a 500
garbage   what is asked for gets something that is no HTTP, and the connection stays
cut       every answer breaks off, those that have begun at once, and no other begins
silent    everything is taken, and nothing said, to the health check neither; it is said afterwards
stuck     the same, but the health check is answered
========  ==========================================================================================

An empty name ends it. The times at which a request met a fault are in ``GET /stub``, which is always answered.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tests.standins.stub_answers import error

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.standins.stub_engine import Connection

__all__ = ["FAULTS", "Faults"]

FAULTS = ("error", "garbage", "cut", "silent", "stuck")
_GARBAGE = b"\x16\x03\x01\x02\x00 this is no HTTP\r\n\r\n"


class Faults:
    """The fault that there is just now, and when it was met."""

    def __init__(self) -> None:
        self.name = ""
        self.met: list[float] = []

    def begin(self, wish: Any, connections: Iterable[Connection]) -> None:
        """Change to another fault, or to none. Raises ValueError for one that there is not."""
        name = wish["fault"]
        if name not in {"", *FAULTS}:
            raise ValueError(name)
        self.name, self.met = name, []
        for connection in tuple(connections):
            if name == "cut" and connection.run is not None:
                self._note()
                connection.transport.abort()
            if name not in {"silent", "stuck"}:
                connection.say_what_was_held()

    def answer(self, connection: Connection) -> bool:
        """Do to a request what the fault does to it, and return whether that was all."""
        if not self.name:
            return False
        self._note()
        if self.name == "error":
            connection.finish(error(500, "told to", "server_error"))
        elif self.name == "garbage":
            connection.transport.write(_GARBAGE)
        elif self.name == "cut":
            connection.transport.abort()
        return self.name not in {"silent", "stuck"}

    def _note(self) -> None:
        self.met.append(time.monotonic())
