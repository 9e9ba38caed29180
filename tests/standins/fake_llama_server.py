"""A stand-in for llama-server, for the faults that the real one cannot be made to show on demand.

It takes llama-server's command line, prints its lines and answers /health and /props. ``--fake-fault NAME[:ARGUMENT]``
chooses what goes wrong; FAULTS says what each is. test_server_fake.py compares what it prints with real logs.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

FAULTS = {
    "none": "nothing goes wrong",
    "stall": "it neither gets ready nor makes progress",
    "slow-log": "it prints a line now and then for so many seconds before it is ready",
    "slow-read": "it reads a file bit by bit for so many seconds before it is ready",
    "slow-memory": "its memory grows bit by bit for so many seconds before it is ready",
    "slow-exit": "it takes so many seconds to end after SIGTERM",
    "lose-term": "it loses its first SIGTERM and exits with status 1 at the second, as the real one can",
    "ignore-term": "it ignores every SIGTERM",
    "exit": "it exits with this status once it has answered /props",
    "die": "it dies of this signal once it has answered /props",
    "die-first": "it dies of this signal before its first word",
    "die-loading": "it dies of this signal while it loads the model",
    "flood": "it prints so many bytes of log before it is ready",
    "endless-line": "it prints one line of so many bytes before it is ready",
    "mute": "it listens, says so, and answers nothing",
    "unhealthy": "its health check says 503",
    "refuse": "it says that it listens on a port where nobody does",
    "relative": "it leaves a process in a session of its own that keeps the log open",
    "boast": "it prints lines that look like the one that says that it is ready, with this port",
}

PREFIX = "0.00.008.754 I srv  llama_server: "


def main() -> None:
    arguments = sys.argv[1:]
    fault, _, argument = read_option(arguments, "--fake-fault", "none").partition(":")
    if fault not in FAULTS:
        sys.exit(f"error: no such fault: {fault}")
    if fault == "die-first":
        os.kill(os.getpid(), int(argument))
    set_signals(fault, argument)
    say(f"{PREFIX}initializing ...")
    place = read_option(arguments, "--host", "127.0.0.1"), int(read_option(arguments, "--port", "0"))
    server = socket.create_server(place)
    load(fault, argument)
    port = server.getsockname()[1]
    if fault == "refuse":
        server.close()
    say(f"{PREFIX}model loaded")
    say(f"{PREFIX}listening on http://127.0.0.1:{port}")
    if fault == "refuse":
        time.sleep(3600)
    serve(server, fault, argument)


def read_option(arguments: list[str], name: str, default: str) -> str:
    return arguments[arguments.index(name) + 1] if name in arguments else default


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def set_signals(fault: str, argument: str) -> None:
    seen: list[int] = []

    def lose_first(*_: object) -> None:
        seen.append(1)
        if len(seen) > 1:
            sys.exit(1)

    def leave_late(*_: object) -> None:
        time.sleep(float(argument))
        sys.exit(0)

    handlers: dict[str, Any] = {"ignore-term": signal.SIG_IGN, "lose-term": lose_first, "slow-exit": leave_late}
    signal.signal(signal.SIGTERM, handlers.get(fault, lambda *_: sys.exit(0)))


def load(fault: str, argument: str) -> None:
    if fault == "stall":
        time.sleep(3600)
    elif fault.startswith("slow-") and fault != "slow-exit":
        load_slowly(fault, float(argument))
    elif fault == "die-loading":
        os.kill(os.getpid(), int(argument))
    elif fault == "flood":
        line = "x" * 99 + "\n"
        for _ in range(int(argument) // (100 * 1000)):
            sys.stdout.write(line * 1000)
        sys.stdout.flush()
    elif fault == "endless-line":
        sys.stdout.write("x" * int(argument) + "\n")
    elif fault == "relative":
        if os.fork() == 0:
            os.setsid()
            time.sleep(3600)
    elif fault == "boast":
        say(f"0.00.000.001 I print_info: general.name = listening on http://127.0.0.1:{argument}")
        say(f"general.name = I srv  llama_server: listening on http://127.0.0.1:{argument}")
        say(f"listening on http://127.0.0.1:{argument}")


def load_slowly(fault: str, seconds: float) -> None:
    kept = []
    end = time.monotonic() + seconds
    with Path("/dev/zero").open("rb", buffering=0) as zeros:
        while time.monotonic() < end:
            time.sleep(0.05)
            if fault == "slow-log":
                say("0.00.010.000 I srv    load_model: loading model")
            elif fault == "slow-read":
                zeros.read(4096)
            else:
                kept.append(bytearray(os.urandom(64)) * 4096)


def serve(server: socket.socket, fault: str, argument: str) -> None:
    silent = []
    while True:
        connection, _ = server.accept()
        if fault == "mute":
            silent.append(connection)
            continue
        with connection:
            path = answer(connection, fault)
        if path == "/props" and fault == "exit":
            os._exit(int(argument))
        if path == "/props" and fault == "die":
            os.kill(os.getpid(), int(argument))


def answer(connection: socket.socket, fault: str) -> str:
    request = b""
    while b"\r\n\r\n" not in request:
        request += connection.recv(65536) or b"\r\n\r\n"
    path = request.split(b" ")[1].decode() if b" " in request else ""
    key = os.environ.get("LLAMA_API_KEY", "")
    if path == "/health":
        status, body = ("503 Service Unavailable", "{}") if fault == "unhealthy" else ("200 OK", '{"status":"ok"}')
    elif f"authorization: bearer {key}" in request.decode().lower():
        status, body = "200 OK", '{"total_slots":1}'
    else:
        status, body = "401 Unauthorized", "{}"
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close"
    connection.sendall(f"{head}\r\n\r\n{body}".encode())
    return path


if __name__ == "__main__":
    main()
