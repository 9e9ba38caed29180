"""Server-sent events without I/O."""

from __future__ import annotations

from llcuda.errors import ResponseError

MAX_EVENT_BYTES = 8 * 1024 * 1024


class EventDecoder:
    """Cut a stream of bytes into the data of its events, whatever the pieces are in which it comes.

    An event's name, its id and comments (llama-server sends ``:`` while a long prompt is processed) are left out.
    The data stay bytes, so a character that two pieces share is whole again before it is decoded.
    """

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        """Wait for the first byte."""
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the data of the events that are complete with these bytes.

        Raises ResponseError for an event of more than 8 MiB: no token is that long, and memory is not endless.
        """
        data = self._rest + data
        if b"\r" in data:
            # A line may end in CR LF or CR too; a CR at the very end may be half of a CR LF.
            cut = len(data) - 1 if data.endswith(b"\r") else len(data)
            data = data[:cut].replace(b"\r\n", b"\n").replace(b"\r", b"\n") + data[cut:]
        # Most often all events are whole and have one line each: 20 of them take 6 us, and 12 block by block.
        *lines, rest = data.split(b"\n")
        ends = lines[1::2]
        if not rest and 2 * len(ends) == len(lines) and not any(ends):
            events = lines[::2]
            if all(event.startswith(b"data: ") for event in events):
                self._rest = b""
                return [event[6:] for event in events]
        *blocks, self._rest = data.split(b"\n\n")
        if len(self._rest) > MAX_EVENT_BYTES:
            raise ResponseError(200, f"the server sent an event of more than {MAX_EVENT_BYTES} bytes")
        return [event for block in blocks if (event := _read_block(block)) is not None]


def _read_block(block: bytes) -> bytes | None:
    """Return the data of one event, None if it has none."""
    if b"\n" not in block and block.startswith(b"data: "):
        return block[6:]
    lines = []
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines) if lines else None
