"""A llama-server that answers at once, so that a client's own cost shows. Run by the benchmarks, in its own process.

It speaks just enough of the API for llcuda, openai and httpx, out of answers that are made before the first request.
The number of tokens and the pause between them (seconds) are in the prompt: ``"2000 0"``.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import time

_TIMINGS = {
    "cache_n": 0, "prompt_n": 8, "prompt_ms": 1.5, "prompt_per_token_ms": 0.2, "prompt_per_second": 5333.3,
    "predicted_n": 16, "predicted_ms": 8.0, "predicted_per_token_ms": 0.5, "predicted_per_second": 2000.0,
}  # fmt: skip
_COMMON = {
    "created": 1790000000,
    "id": "chatcmpl-0123456789abcdefABCDEF0123456789",
    "model": "demo.gguf",
    "system_fingerprint": "b11434-0000000",
}
_WANTED = re.compile(rb"(\d+) ([0-9.]+)")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _event(choices: list[object], **more: object) -> bytes:
    payload = {"choices": choices, **_COMMON, "object": "chat.completion.chunk", **more}
    return _chunk(b"data: " + json.dumps(payload, separators=(",", ":")).encode() + b"\n\n")


def _delta(delta: dict[str, object], reason: str | None = None) -> list[object]:
    return [{"finish_reason": reason, "index": 0, "delta": delta}]


def _usage(tokens: int) -> dict[str, object]:
    return {"completion_tokens": tokens, "prompt_tokens": 8, "total_tokens": tokens + 8}


_HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
    b"Keep-Alive: timeout=5, max=100\r\n\r\n"
)
_FIRST = _event(_delta({"role": "assistant", "content": None}))
_TOKEN = _event(_delta({"content": " token"}))
_END = _event(_delta({}, "stop"))
_LAST = _event([], usage=_usage(16), timings=_TIMINGS) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def _whole(tokens: int) -> bytes:
    message = {"role": "assistant", "content": " token" * tokens}
    choices = [{"finish_reason": "stop", "index": 0, "message": message}]
    payload = {"choices": choices, **_COMMON, "object": "chat.completion", "usage": _usage(tokens), "timings": _TIMINGS}
    return _plain(payload)


def _plain(payload: object) -> bytes:
    body = json.dumps(payload).encode()
    head = b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nContent-Type: application/json; charset=utf-8\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def _read_request(connection: socket.socket, held: bytes) -> tuple[bytes, bytes]:
    while b"\r\n\r\n" not in held:
        data = connection.recv(65536)
        if not data:
            return b"", b""
        held += data
    head, _, body = held.partition(b"\r\n\r\n")
    match = re.search(rb"(?i)content-length: (\d+)", head)
    length = int(match[1]) if match else 0
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body[:length], body[length:]


def _serve(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    plain, held = _plain({"tokens": list(range(16))}), b""
    whole = {16: _whole(16)}
    while True:
        request, held = _read_request(connection, held)
        if not request:
            return
        if b"/chat/completions" not in request:
            connection.sendall(plain)
            continue
        wanted = _WANTED.search(request.partition(b"\r\n\r\n")[2])
        tokens, pause = (int(wanted[1]), float(wanted[2])) if wanted else (16, 0.0)
        if re.search(rb'"stream": ?true', request):
            _stream(connection, tokens, pause)
        else:
            connection.sendall(whole.setdefault(tokens, _whole(tokens)))


def _stream(connection: socket.socket, tokens: int, pause: float) -> None:
    """Send each token by itself, as llama-server does."""
    connection.sendall(_HEAD)
    connection.sendall(_FIRST)
    for _ in range(tokens):
        if pause:
            time.sleep(pause)
        connection.sendall(_TOKEN)
    connection.sendall(_END)
    connection.sendall(_LAST)


def main() -> None:
    """Listen on a free port, print it, and serve until standard input ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
