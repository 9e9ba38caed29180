"""Hosts on this machine: network namespaces, each with a link of its own to this one. Only root can have them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from tests.places import ROOT
from tests.processes import PATIENCE, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Host", "three_hosts"]

PORT = 8090


class Host:
    """A machine with one address, on which a gateway can be run."""

    def __init__(self, number: int, folder: Path) -> None:
        own = os.getpid() % 250
        self.name = f"llcuda{os.getpid()}-{number}"
        self.link = f"ll{os.getpid()}-{number}"[:15]
        self.here, self.address = f"10.{77 + number}.{own}.1", f"10.{77 + number}.{own}.2"
        self.url = f"http://{self.address}:{PORT}"
        self.process: subprocess.Popen[bytes] | None = None
        self._log = folder / f"{number}.log"

    def open(self) -> None:
        """Make it, and the link."""
        _run("ip", "netns", "add", self.name)
        _run("ip", "link", "add", self.link, "type", "veth", "peer", "name", "up0", "netns", self.name)
        _run("ip", "address", "add", f"{self.here}/24", "dev", self.link)
        _run("ip", "link", "set", self.link, "up")
        self._run("ip", "address", "add", f"{self.address}/24", "dev", "up0")
        self._run("ip", "link", "set", "up0", "up")
        self._run("ip", "link", "set", "lo", "up")

    def serve(self, key: str) -> None:
        """Run a gateway with the demo model, and return when it listens."""
        command = ["ip", "netns", "exec", self.name, sys.executable, "-m", "tests.served_process", "serve"]
        command += ["-m", "demo", "--host", self.address, "--port", str(PORT), "--slots", "2", "--device", "cpu"]
        environment = {**os.environ, "LLCUDA_SERVE_API_KEY": key}
        environment["PYTHONPATH"] = os.pathsep.join((str(ROOT), *filter(None, sys.path)))
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log)
        wait_until(lambda: " on http" in self._log.read_text(), timeout=PATIENCE, what="the host's gateway listens")

    def fail(self) -> None:
        """Lose all processes at once."""
        pids = self._run("ip", "netns", "pids", self.name).split()
        for pid in pids:
            os.kill(int(pid), signal.SIGKILL)
        if self.process is not None:
            with self.process:  # its standard input is closed, and it is waited for
                self.process.kill()
            self.process = None

    def cut_off(self) -> None:
        """Lose the link: nothing comes any more, and nobody says so."""
        _run("ip", "link", "set", self.link, "down")

    def join_again(self) -> None:
        """Have the link again."""
        _run("ip", "link", "set", self.link, "up")

    def slow_down(self) -> None:
        """Send 128 kbit a second."""
        self._run("tc", "qdisc", "add", "dev", "up0", "root", "tbf", "rate", "128kbit", "burst", "4kb", "latency", "2s")

    def close(self) -> None:
        """End what runs there, and take it away."""
        self.fail()
        _run("ip", "netns", "delete", self.name)

    def _run(self, *command: str) -> str:
        return _run("ip", "netns", "exec", self.name, *command) if command[1] != "netns" else _run(*command)


@contextmanager
def three_hosts(folder: Path) -> Iterator[tuple[Host, Host, Host]]:
    """Have three hosts until the block ends."""
    with ExitStack() as stack:
        hosts = (Host(0, folder), Host(1, folder), Host(2, folder))
        for host in hosts:
            stack.callback(host.close)
            host.open()
        yield hosts


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout
