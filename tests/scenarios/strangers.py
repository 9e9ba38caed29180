"""Clients without a key that hold what they can of a gateway: what it comes to hold, and who with a key is answered.

The short version is a test; the long one is ``python -m benchmarks.unauthenticated``. The strangers have a process of
their own, ``python -m tests.scenarios.strangers KIND PORT COUNT RETURNS``, which goes on until its standard input ends.
"""

from __future__ import annotations

import json
import resource
import select
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.certificates import write_certificate
from tests.places import ROOT
from tests.watching import watched

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.watching import Watched

__all__ = ["KINDS", "StrangerFigures", "run_strangers"]

KEY = "sk-user-0123456789abcdef"
QUESTION = {"messages": [{"role": "user", "content": "What is 2+2?"}], "temperature": 0, "max_tokens": 16}
ANSWER = "2 + 2 = 4."
_PATIENCE = 120.0
_QUIET_SECONDS = 10.0
_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
_GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04" + b"\x00" * 5
KINDS: dict[str, tuple[bytes, bytes]] = {
    "connections": (b"", b""),
    "handshakes": (_HELLO, b""),
    "slow heads": (b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"a:bc\r\n" * 90, b"x"),
    "large heads": (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 30_000, b"y"),
    "trailers": (
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ", b"y" * (256 << 10),
    ),
    "extensions": (
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"y" * (256 << 10),
    ),
    "bodies": (
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", b"2\r\nab\r\n" * 4000,
    ),
    "pipelines": (_GET * 6000, _GET * 100),
    "pages": (b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100, b""),
    "grpc": (_PREFACE, b""),
}  # fmt: skip
"""What each connection sends at once, and again and again as far as it is taken; nothing is ever read."""


@dataclass
class StrangerFigures:
    """What the gateway held, and what a client with a key waited for."""

    kind: str
    count: int
    returns_per_second: int = 500
    """Of all together; who connects as fast as it can takes the processor's time, whatever the gateway does."""
    quiet_ms: list[float] = field(default_factory=list)
    """Without strangers, before and after."""
    busy_ms: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """What was not the right answer."""
    rss_before: float = 0.0
    rss_highest: float = 0.0
    """MiB."""
    descriptors_before: int = 0
    descriptors_highest: int = 0
    descriptors_after: int = 0
    log_bytes: int = 0
    opened: int = 0
    """Connections that the strangers made."""


def run_strangers(
    *kinds: str,
    count: int,
    seconds: float,
    limits: dict[str, Any] | None = None,
    descriptors: int | None = None,
    returns_per_second: int = 500,
) -> list[StrangerFigures]:
    """Ask a gateway again and again, in the midst of it with ``count`` strangers of each kind for so many seconds."""
    found = [StrangerFigures(kind, count, returns_per_second) for kind in kinds]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings: dict[str, Any] = {"grpc_port": 0} if "grpc" in kinds else {}
        certificate = None
        if "handshakes" in kinds:
            certificate, key = write_certificate(folder)
            settings |= {"tls_certificate": str(certificate), "tls_key": str(key)}
        keys = [{"name": "user", "key": KEY}]
        model = {"workers": 1, "slots": 2, "threads": 1, "ctx_size": 512}
        wishes: dict[str, Any] = {"model": model, "keys": keys, "limits": limits or {}, "gateway": settings}
        with watched(folder, descriptors=descriptors, **wishes) as gateway:
            for figures in found:
                before = (folder / "gateway.log").stat().st_size
                _measure(gateway, figures, seconds, certificate=certificate)
                figures.log_bytes = (folder / "gateway.log").stat().st_size - before
    return found


def _measure(gateway: Watched, figures: StrangerFigures, seconds: float, *, certificate: Path | None) -> None:
    asker = _Asker(gateway.port, certificate=certificate)
    quiet_seconds = min(seconds / 2, _QUIET_SECONDS)
    asker.ask_for(quiet_seconds, [], least=1)
    figures.rss_before = figures.rss_highest = gateway.rss()
    figures.descriptors_before = figures.descriptors_highest = _count_descriptors(gateway)
    asker.ask_for(quiet_seconds, figures.quiet_ms, least=1)
    with _strangers(figures, gateway), _watching(gateway, figures):
        asker.ask_for(seconds, figures.busy_ms)
    gateway.until(
        lambda: _count_descriptors(gateway) <= figures.descriptors_before + 2,
        what="all strangers gone",
        seconds=_PATIENCE,
    )
    figures.descriptors_after = _count_descriptors(gateway)
    asker.ask_for(quiet_seconds, figures.quiet_ms, least=1)
    figures.wrong = asker.wrong


@contextmanager
def _strangers(figures: StrangerFigures, gateway: Watched) -> Iterator[None]:
    port = gateway.grpc_port if figures.kind == "grpc" else gateway.port
    command = [sys.executable, "-m", "tests.scenarios.strangers", figures.kind, str(port)]
    command += [str(figures.count), str(figures.returns_per_second)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        assert process.stdout
        process.stdout.readline()  # all have been opened once
        try:
            yield
        finally:
            figures.opened = int(process.communicate()[0] or 0)


@contextmanager
def _watching(gateway: Watched, figures: StrangerFigures) -> Iterator[None]:
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            figures.rss_highest = max(figures.rss_highest, gateway.rss())
            figures.descriptors_highest = max(figures.descriptors_highest, _count_descriptors(gateway))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _count_descriptors(gateway: Watched) -> int:
    return sum(1 for _ in Path(f"/proc/{gateway.process.pid}/fd").iterdir())


class _Asker:
    """A client with a key, which makes a new connection for each question."""

    def __init__(self, port: int, *, certificate: Path | None) -> None:
        self._port = port
        self._tls: ssl.SSLContext | None = None
        if certificate is not None:
            self._tls = ssl.create_default_context(cafile=certificate)
        self.wrong: list[str] = []

    def ask_for(self, seconds: float, times_ms: list[float], *, least: int = 10) -> None:
        """Ask at least so many times, and note how long each answer took."""
        end = time.monotonic() + seconds
        number = 0
        while time.monotonic() < end or number < least:
            began = time.monotonic()
            answer = self._ask()
            times_ms.append(1000 * (time.monotonic() - began))
            if answer != ANSWER:
                self.wrong.append(answer)
            number += 1

    def _ask(self) -> str:
        kind: Any = HTTPConnection if self._tls is None else HTTPSConnection
        connection = kind("127.0.0.1", self._port, timeout=_PATIENCE, **({"context": self._tls} if self._tls else {}))
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
        try:
            connection.request("POST", "/v1/chat/completions", body=json.dumps(QUESTION), headers=headers)
            return str(json.loads(connection.getresponse().read())["choices"][0]["message"]["content"])
        except (OSError, HTTPException, ValueError, KeyError) as error:
            return f"{type(error).__name__}: {error}"
        finally:
            connection.close()


class _Crowd:
    """The strangers themselves; each that was closed comes again after a while."""

    def __init__(self, kind: str, port: int, *, return_seconds: float) -> None:
        self._return_seconds = return_seconds
        self._first, self._more = KINDS[kind]
        self._port = port
        self._poll = select.epoll()
        self._members: dict[int, tuple[socket.socket, memoryview]] = {}
        self._returning: deque[float] = deque()
        self.opened = 0

    def open(self) -> None:
        member = socket.socket()
        member.setblocking(False)
        with suppress(BlockingIOError):
            member.connect(("127.0.0.1", self._port))
        self._members[member.fileno()] = member, memoryview(self._first)
        events = select.EPOLLOUT if self._first else 0
        self._poll.register(member, events | select.EPOLLRDHUP)
        self.opened += 1

    def turn(self, seconds: float) -> None:
        """Send what is taken, and replace who was closed."""
        for number, event in self._poll.poll(seconds, 256):
            if event & (select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP) or not self._send(number):
                self._members.pop(number)[0].close()
                self._returning.append(time.monotonic() + self._return_seconds)
        while self._returning and self._returning[0] < time.monotonic():
            self._returning.popleft()
            self.open()

    def _send(self, number: int) -> bool:
        member, left = self._members[number]
        try:
            left = left[member.send(left) :]
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not left:
            left = memoryview(self._more)
            if len(self._more) <= 1:
                self._poll.modify(number, select.EPOLLRDHUP)
        self._members[number] = member, left
        return True

    def close(self) -> None:
        for member, _ in self._members.values():
            member.close()
        self._poll.close()


def main() -> None:
    kind, (port, count, returns) = sys.argv[1], map(int, sys.argv[2:])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    crowd = _Crowd(kind, port, return_seconds=count / returns)
    for number in range(count):
        crowd.open()
        if number % 50 == 0:
            crowd.turn(0.001)
    sys.stdout.write("all are there\n")
    sys.stdout.flush()
    while not select.select([sys.stdin], [], [], 0)[0]:
        crowd.turn(0.1)
    crowd.close()
    sys.stdout.write(f"{crowd.opened}\n")


if __name__ == "__main__":
    main()
