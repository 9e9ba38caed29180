"""A server that answers what a test tells it to, also what no server should."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import Self

CLOSE = object()  # close the connection
RESET = object()  # close it so that the client's next read fails
WAIT = object()  # wait until the client closes it

DEADLINE = 120.0


class StubServer:
    """Listens on a free port of the loopback and gives each request the next answer: a list of bytes and actions.

    The last answer is repeated. ``requests`` holds what came, ``connections`` how many there were, and ``left`` is set
    when the client has closed a connection before the answer's end, or one that an answer WAITs on.
    """

    def __init__(self, *answers: Iterable[Any], wrap: Callable[[socket.socket], socket.socket] | None = None) -> None:
        self._answers = [list(answer) for answer in answers]
        self._wrap = wrap
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.requests: list[bytes] = []
        self.connections = 0
        self.left = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._start(self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Closing alone does not wake up a thread that waits in accept.
        self._listener.shutdown(socket.SHUT_RDWR)
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()
        self._listener.close()

    def payload(self, index: int = -1) -> Any:
        """The JSON that a request carried."""
        return json.loads(self.requests[index].partition(b"\r\n\r\n")[2])

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        try:
            with suppress(OSError):
                if self._wrap is not None:
                    connection = self._wrap(connection)
                with self._lock:
                    self._open.append(connection)
                    self.connections += 1
                while self._serve_one(connection):
                    pass
        finally:
            connection.close()

    def _serve_one(self, connection: socket.socket) -> bool:
        request = _read_request(connection)
        if request is None:
            return False
        with self._lock:
            self.requests.append(request)
            steps = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        try:
            return all(self._step(connection, step) for step in steps)
        except ConnectionError:
            self.left.set()
            raise

    def _step(self, connection: socket.socket, step: Any) -> bool:
        if isinstance(step, bytes):
            connection.sendall(step)
            return True
        if step is WAIT:
            connection.settimeout(DEADLINE)
            with suppress(ConnectionError):
                assert connection.recv(1) == b""
            self.left.set()
        elif step is RESET:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False


def _read_request(connection: socket.socket) -> bytes | None:
    request = b""
    while b"\r\n\r\n" not in request:
        data = connection.recv(65536)
        if not data:
            return None
        request += data
    head, _, body = request.partition(b"\r\n\r\n")
    match = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    while match and len(body) < int(match[1]):
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def answer(payload: Any, *, status: int = 200, headers: str = "") -> list[bytes]:
    """A whole JSON answer."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return [head.encode() + body]


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(payload: Any) -> bytes:
    """One server-sent event in a chunk of its own, as llama-server sends it."""
    return chunk(b"data: " + json.dumps(payload, ensure_ascii=False).encode() + b"\n\n")


def delta(reason: str | None = None, **fields: Any) -> Any:
    """The payload of one event of the chat endpoint."""
    return {"choices": [{"finish_reason": reason, "index": 0, "delta": fields}], "model": "stub"}


TIMINGS = {
    "cache_n": 3,
    "prompt_n": 4,
    "prompt_ms": 1.5,
    "predicted_n": 2,
    "predicted_ms": 4.0,
    "predicted_per_second": 250.0,
}
USAGE = {"completion_tokens": 2, "prompt_tokens": 7, "total_tokens": 9, "prompt_tokens_details": {"cached_tokens": 3}}
END = chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def chat_events(*pieces: str, reason: str = "stop", usage: bool = True) -> list[bytes]:
    """The events of a whole chat answer, as llama-server sends them."""
    events = [event(delta(role="assistant", content=None))]
    events += [event(delta(content=piece)) for piece in pieces]
    events.append(event(delta(reason)))
    if usage:
        events.append(event({"choices": [], "model": "stub", "usage": USAGE, "timings": TIMINGS}))
    return events


def chat(*pieces: str, reason: str = "stop", usage: bool = True) -> list[bytes]:
    """A whole streamed chat answer."""
    return [STREAM_HEAD, *chat_events(*pieces, reason=reason, usage=usage), END]


def completion(*pieces: str, stop_type: str = "eos") -> list[bytes]:
    """A whole streamed answer of /completion, which has no [DONE]."""
    events = [event({"content": piece, "tokens": [1], "stop": False}) for piece in pieces]
    last = {"content": "", "stop": True, "stop_type": stop_type, "model": "stub", "timings": TIMINGS}
    return [STREAM_HEAD, *events, event({**last, "tokens_evaluated": 7, "tokens_predicted": 2}), b"0\r\n\r\n"]
