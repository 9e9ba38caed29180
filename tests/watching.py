"""Run tests/watched_gateway.py and look at what it tells, and at what is left of it at its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.places import ROOT
from tests.processes import is_alive, wait_until
from tests.standins.stub_engine import write_executable
from tests.watched_gateway import read_rss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Event", "Watched", "ask_connection", "ask_socket", "percentile", "watched"]

_PATIENCE = 120.0


@dataclass(frozen=True, slots=True)
class Event:
    """Something that the gateway did, and when."""

    name: str
    at: float
    worker: str
    facts: dict[str, Any]


class Watched:
    """A gateway in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.events: list[Event] = []
        self.latest: dict[str, Event] = {}
        """The last change of each worker there was."""
        self.busy: dict[str, int] = {}
        """The slots in use of each worker there was."""
        self.pids: set[int] = set()
        """All llama-servers there were."""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            facts = json.loads(line)
            event = Event(facts.pop("event"), facts.pop("at"), facts.pop("worker", ""), facts)
            if event.name == "state":
                self.latest[event.worker] = event
                if event.facts["pid"]:
                    self.pids.add(event.facts["pid"])
            elif event.name in {"take", "release"}:
                self.busy[event.worker] = event.facts["busy"]
            self.events.append(event)

    def find(self, name: str, *, worker: str = "", begin: int = 0, **facts: Any) -> Event | None:
        """Return the first such event from the one numbered ``begin`` on."""
        for event in self.events[begin:]:
            is_it = event.name == name and worker in {"", event.worker}
            if is_it and all(event.facts.get(fact) == value for fact, value in facts.items()):
                return event
        return None

    def wait(self, name: str, *, worker: str = "", begin: int = 0, **facts: Any) -> Event:
        """Return the first such event, waiting for it."""
        found: Event = self.until(
            lambda: self.find(name, worker=worker, begin=begin, **facts), what=f"{name} of {worker}"
        )
        return found

    def until(self, condition: Callable[[], Any], *, what: str, seconds: float = _PATIENCE) -> Any:
        """Return what the condition comes to be."""
        found: Any = None

        def is_found() -> bool:
            nonlocal found
            assert self.process.poll() is None, f"the gateway ended with status {self.process.returncode}"
            return bool(found := condition())

        wait_until(is_found, timeout=seconds, what=what)
        return found

    @property
    def port(self) -> int:
        return int(self.wait("listening").facts["url"].rpartition(":")[2])

    @property
    def grpc_port(self) -> int:
        return int(self.wait("listening").facts["grpc_port"])

    @property
    def workers(self) -> list[str]:
        """The workers that are ready."""
        return sorted(name for name, event in self.latest.items() if event.facts["state"] == "ready")

    def pid(self, worker: str) -> int:
        return int(self.latest[worker].facts["pid"])

    def rss(self) -> float:
        return read_rss(self.process.pid)

    def takes(self, worker: str, begin: int) -> list[float]:
        """Return when a worker was given requests, from the event numbered ``begin`` on."""
        return [event.at for event in self.events[begin:] if event.name == "take" and event.worker == worker]

    def await_idle(self, seconds: float = _PATIENCE) -> None:
        """Wait until no slot is in use."""
        self.until(lambda: not any(self.busy.values()), what="every slot free", seconds=seconds)

    def ask(self, path: str, body: object = None, *, key: str = "") -> tuple[int, bytes]:
        """Return status and body of what the gateway answers."""
        return ask_connection(HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE), path, body, key=key)

    def read_figure(self, name: str, *, key: str = "") -> int:
        """Return what the gateway has counted under this name."""
        page = self.ask("/metrics", key=key)[1].decode()
        (line,) = [line for line in page.splitlines() if line.startswith(f"{name} ")]
        return int(float(line.split()[1]))

    def ask_worker(self, worker: str, path: str, body: object = None) -> Any:
        """Return what a worker itself answers."""
        facts = self.latest[worker].facts
        return ask_socket(facts["socket"], path, body, key=facts["key"])

    def end(self) -> None:
        """Stop it, and see that nothing is left."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(_PATIENCE) == 0
        self._reader.join()
        assert not [pid for pid in self.pids if is_alive(pid)], "a llama-server is left"
        folders = {Path(event.facts["socket"]).parent for event in self.latest.values()}
        assert not [folder for folder in folders if folder.exists()], "a folder of sockets is left"

    def kill(self) -> None:
        """End it somehow."""
        self.process.kill()
        self._reader.join()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


class _SocketConnection(HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask_socket(path: str, target: str, body: object = None, *, key: str = "") -> Any:
    """Return the JSON that is answered on a Unix socket."""
    return json.loads(ask_connection(_SocketConnection(path), target, body, key=key)[1])


def ask_connection(connection: HTTPConnection, path: str, body: object, *, key: str) -> tuple[int, bytes]:
    headers = {"Content-Type": "application/json", "Connection": "close"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    try:
        method, data = ("GET", None) if body is None else ("POST", json.dumps(body))
        connection.request(method, path, body=data, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@contextmanager
def watched(folder: Path, *, stub: bool = False, descriptors: int | None = None, **wishes: Any) -> Iterator[Watched]:
    """Run a gateway, with at most so many descriptors, until the block ends, which fails where something is left."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), *filter(None, sys.path)))}
    environment.pop("LLAMA_SERVER_PATH", None)
    if stub:
        environment["LLAMA_SERVER_PATH"] = str(write_executable(folder / "bin" / "llama-server"))
    limit = ["prlimit", f"--nofile={descriptors}"] if descriptors else []
    command = [*limit, sys.executable, "-m", "tests.watched_gateway", json.dumps(wishes)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with (folder / "gateway.log").open("wb") as log:
        gateway = Watched(subprocess.Popen(command, env=environment, stderr=log, cwd=folder, **pipes))
    try:
        gateway.wait("listening")
        yield gateway
        gateway.end()
    finally:
        gateway.kill()


def percentile(values: list[float], share: float) -> float:
    """Return the value that so large a share does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
