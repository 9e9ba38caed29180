"""How the events of a stream are written anew, whatever pieces it comes in."""

from __future__ import annotations

__all__ = ["NOT_UNDERSTOOD", "EventWriter"]

_SEPARATOR = b"\n\n"
NOT_UNDERSTOOD = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What reading the JSON of a worker raises if it has another form than llama-server's."""


class EventWriter:
    """Writes each event of one stream as another API has it."""

    content_type = "text/event-stream"

    def __init__(self) -> None:
        """Wait for the first piece."""
        self._rest = b""

    def feed(self, data: bytes, *, is_last: bool) -> bytes:
        """Take a piece of the stream, and return the events that are whole; with the last piece, whatever is left."""
        *events, rest = (self._rest + data).split(_SEPARATOR)
        self._rest = b"" if is_last else rest
        whole = b"".join(map(self.write, events))
        return whole + self.write_rest(rest) if is_last else whole

    def write(self, event: bytes) -> bytes:
        """Return what an event becomes."""
        return event + _SEPARATOR

    def write_rest(self, event: bytes) -> bytes:
        """Return what a stream ends with if it breaks off within an event."""
        return event
