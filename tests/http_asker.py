"""One connection of a client that asks over HTTP on an event loop, and can leave at any moment."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import dataclass
from typing import Any

__all__ = ["HttpAsker", "Reply"]

_MAX_LINE = 1 << 22


@dataclass(frozen=True, slots=True)
class Reply:
    """What was answered, whole."""

    status: int
    headers: dict[str, str]
    data: bytes

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    @property
    def fields(self) -> Any:
        return json.loads(self.data)

    @property
    def events(self) -> list[Any]:
        """The JSON of each event; the one that only says that it is over is left out."""
        lines = (line[6:] for line in self.data.split(b"\n") if line.startswith(b"data: "))
        return [json.loads(line) for line in lines if line.strip() != b"[DONE]"]

    @property
    def code(self) -> str:
        """The word for programs in an error."""
        return str(self._error.get("code") or self._error.get("type") or "")

    @property
    def reason(self) -> str:
        """What an error says."""
        return str(self._error.get("message", ""))

    @property
    def _error(self) -> dict[str, Any]:
        try:
            error = self.fields["error"]
        except (ValueError, KeyError, TypeError):
            return {}
        return error if type(error) is dict else {}


class HttpAsker:
    """A client with one connection, which is opened when it is needed."""

    def __init__(self, port: int, *, key: str = "") -> None:
        self._port = port
        self._key = key
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(
        self, path: str, body: bytes | None = None, *, request_id: str = "", seconds: float = math.inf
    ) -> Reply:
        """Ask once. Raises ConnectionError or EOFError if the answer is not whole, TimeoutError if it is late."""
        data = body or b""
        lines = [
            f"{'GET' if body is None else 'POST'} {path} HTTP/1.1",
            f"Host: 127.0.0.1:{self._port}",
            "Content-Type: application/json",
            f"Content-Length: {len(data)}",
        ]
        lines += [f"Authorization: Bearer {self._key}"] if self._key else []
        lines += [f"X-Request-Id: {request_id}"] if request_id else []
        return await self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + data, seconds=seconds)

    async def send(self, request: bytes, *, seconds: float = math.inf) -> Reply:
        """Send a whole request as it stands, and return what is answered; leave after so many seconds."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=_MAX_LINE)
        reader, writer = self._streams
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        timer = loop.call_at(end, self.leave) if seconds < math.inf else None
        try:
            writer.write(request)
            reply = await _read(reader)
        except (ConnectionError, EOFError):
            self.leave()
            if loop.time() >= end:
                raise TimeoutError from None
            raise
        except BaseException:
            self.leave()
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if reply.headers.get("connection") == "close":
            self.leave()
        return reply

    def leave(self, *, reset: bool = True) -> None:
        """Close the connection now, whatever is under way."""
        if self._streams is not None:
            writer = self._streams[1]
            self._streams = None
            if reset:
                writer.transport.abort()
            else:
                writer.close()


async def _read(reader: asyncio.StreamReader) -> Reply:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in head[1:] if line)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    status = int(head[0].split(" ", 2)[1])
    if headers.get("transfer-encoding") == "chunked":
        data = await _read_chunks(reader)
    elif "content-length" in headers:
        data = await reader.readexactly(int(headers["content-length"]))
    else:
        data = await reader.read()
    return Reply(status, headers, data)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    pieces = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        pieces.append((await reader.readexactly(size + 2))[:-2])
    await reader.readuntil(b"\r\n")
    return b"".join(pieces)
