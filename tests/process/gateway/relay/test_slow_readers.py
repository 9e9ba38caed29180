"""Many clients do not read the endless streams they asked for: what the gateway holds, and who is served meanwhile.

Half of them read nothing, the others a byte a second. Their windows are as small as the kernel allows, so that it is
the gateway that has to hold what they do not take, or to stop. The short version is a test; the long one is
``python -m benchmarks.gateway_slow_readers``.
"""

from __future__ import annotations

import json
import select
import socket
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.processes import PATIENCE
from tests.scenarios.gateway_clients import asking, stub_wishes
from tests.watching import watched

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.scenarios.gateway_clients import Answer
    from tests.watching import Watched

_TEXT_BYTES = 8192
_TOKEN_MS = 60
"""So each stream is 130 kB a second, and nobody gets to its end."""
_WORKERS = 2
_MORE_SLOTS = 8


@dataclass
class SlowFigures:
    """What became of them, and of the others."""

    count: int
    write_timeout: float
    cut_seconds: list[float] = field(default_factory=list)
    """Of each that was cut, from its request; it takes a while until no buffer takes any more."""
    counted: int = 0
    """Those in the gateway's own figure."""
    rss_before: float = 0.0
    rss_highest: float = 0.0
    """MiB that the gateway had resident."""
    before_ms: list[float] = field(default_factory=list)
    during_ms: list[float] = field(default_factory=list)
    """What the others waited for their answers."""
    lost: list[str] = field(default_factory=list)


def run_slow_readers(count: int, *, write_timeout: float, before_seconds: float = 2.0) -> SlowFigures:
    """Have ``count`` clients that do not read, and six that do, until the former are cut."""
    figures = SlowFigures(count, write_timeout)
    model = {"workers": _WORKERS, "slots": count // _WORKERS + _MORE_SLOTS}
    limits = {"write_timeout": write_timeout}
    with tempfile.TemporaryDirectory() as folder, watched(
        Path(folder), stub=True, model=model, limits=limits
    ) as gateway:
        with asking(gateway.port, stub_wishes()) as others:
            time.sleep(before_seconds)
            figures.rss_before = figures.rss_highest = gateway.rss()
            done = len(others.answers)
            figures.cut_seconds = _stall(gateway, figures)
            during = others.answers[done:]
        figures.before_ms, figures.during_ms = _milliseconds(others.answers[:done]), _milliseconds(during)
        figures.lost = [f"{answer.kind}: {answer.detail}" for answer in others.find_lost(may_break_off=False)]
        gateway.await_idle()
        figures.counted = gateway.read_figure("llcuda_slow_readers_total")
    return figures


def _milliseconds(answers: list[Answer]) -> list[float]:
    return [answer.seconds * 1000 for answer in answers]


def _stall(gateway: Watched, figures: SlowFigures) -> list[float]:
    """Return when each was cut, in seconds from its request; all are gone after a time that is long enough."""
    clients = [_ask(gateway.port, number) for number in range(figures.count)]
    asked = {client.fileno(): time.monotonic() for client in clients}
    poll = select.poll()
    for client in clients:
        poll.register(client, 0)  # an error is reported always
    cut: dict[int, float] = {}
    with _sipping(clients[::2]):
        end = time.monotonic() + 3 * figures.write_timeout + PATIENCE
        while len(cut) < len(clients) and time.monotonic() < end:
            for number, _ in poll.poll(50):
                poll.unregister(number)
                cut[number] = time.monotonic() - asked[number]
            figures.rss_highest = max(figures.rss_highest, gateway.rss())
    for client in clients:
        client.close()
    return list(cut.values())


def _ask(port: int, number: int) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    steering = {"tokens": 10_000, "token_ms": _TOKEN_MS, "text": "x" * _TEXT_BYTES, "tag": number}
    messages = [{"role": "user", "content": json.dumps(steering)}]
    body = json.dumps({"model": "demo", "messages": messages, "stream": True}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return client


@contextmanager
def _sipping(clients: list[socket.socket]) -> Iterator[None]:
    """Have each of the clients read a byte a second while the block runs."""
    over = threading.Event()

    def sip() -> None:
        while not over.wait(1):
            for client in clients:
                with suppress(OSError):
                    client.recv(1, socket.MSG_DONTWAIT)

    thread = threading.Thread(target=sip)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


_COUNT = 60
_WRITE_TIMEOUT = 2.0


def test_those_that_do_not_read_are_cut_and_hold_up_nobody() -> None:
    figures = run_slow_readers(_COUNT, write_timeout=_WRITE_TIMEOUT)
    assert len(figures.cut_seconds) == figures.counted == _COUNT
    assert min(figures.cut_seconds) > _WRITE_TIMEOUT
    assert figures.rss_highest - figures.rss_before < 0.5 * _COUNT
    assert figures.lost == []
    assert figures.during_ms
