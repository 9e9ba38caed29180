"""Kill, or stop, the owner of a real llama-server at a random moment, and watch what becomes of the server.

Each mode is a function of the number of repetitions. It fails at the first process that stays, zombie that nobody
reaps, or bystander that is touched. ``python -m tests.process.server.test_kill 300`` repeats each mode as often and
prints how long it took; it exits with 1 if a killed owner's server was there for longer than 250 ms. On a machine that
does other things too, a killed process waits for its turn to die: ``chrt -r 1`` before the command keeps the others
out.
"""

from __future__ import annotations

import os
import random
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llcuda.errors import ServerError
from llcuda.server import ServerManager
from tests.made_models.tiny_model import write_tiny_model
from tests.processes import PATIENCE, children_of, is_alive, read_stat, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MAX_GONE_MS = 250
"""What is promised of a killed owner's server."""
LONGEST_DELAY = 2.0
"""In lengths of a start on this machine as it is just now, so that the phases of a start and what follows are met."""
QUIET = 0.04
"""Seconds without a trace of the server before it counts as gone: a process that is just being made has no name yet."""


@dataclass
class Figures:
    """What became of one mode's repetitions."""

    mode: str
    times_ms: list[float] = field(default_factory=list)
    after_death_ms: list[float] = field(default_factory=list)
    """The part after the owner was really dead: on a busy machine a killed process may wait its turn to die."""
    met: int = 0
    """How often there was something to end at that moment."""
    returncodes: dict[int, int] = field(default_factory=dict)

    def __str__(self) -> str:
        cuts = statistics.quantiles(self.times_ms, n=100, method="inclusive")
        gone = f"gone after {cuts[49]:.0f} ms (p50), {cuts[98]:.0f} (p99), {max(self.times_ms):.0f} (max)"
        dead = f"{max(self.after_death_ms, default=0):.0f} ms after its death at worst"
        return f"{self.mode}: {len(self.times_ms)}, met {self.met}, {gone}, {dead}, exit statuses {self.returncodes}"


VICTIM = """
import os, sys, threading
from llcuda.server import ServerManager
import llcuda.transport.sync
mode, model, alias = sys.argv[1:]
def say(word):
    os.write(1, f"{word}\\n".encode())
def start():
    global manager
    manager = ServerManager()
    manager.start_server(model, alias=alias, threads=1)
def stay():
    os.read(0, 1)             # until the harness is gone
    os._exit(0)
def fork():
    return os.fork() == 0
if mode == "forked":          # the owner is a forked process, and its parent lives on
    if not fork():
        stay()
say(os.getpid())
say("go")
if mode == "thread":
    threading.Thread(target=start).start()
elif mode == "holder":        # a forked process of the owner lives on
    start()
    fork()
else:
    start()
stay()
"""

PIPES: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
PARENT_MODES = ("main", "thread", "forked", "holder")


def kill_parents(mode: str, count: int, *, model: Path) -> Figures:
    """SIGKILL the process that owns the server at a random moment."""
    figures = Figures(mode)
    with bystanders(model) as others:
        for _ in range(count):
            alias = f"kill-{uuid.uuid4().hex}"
            strangers = all_pids()
            command = [sys.executable, "-c", VICTIM, mode, str(model), alias]
            with subprocess.Popen(command, **PIPES, text=True, start_new_session=True) as victim:
                try:
                    assert victim.stdout
                    owner = int(victim.stdout.readline())
                    assert victim.stdout.readline() == "go\n"
                    others.wait_a_moment()
                    kill_and_watch(owner, alias, strangers, figures=figures)
                finally:
                    with suppress(ProcessLookupError):
                        os.killpg(victim.pid, signal.SIGKILL)
            others.check()
    return figures


KERNEL_CODE = """
from llcuda.server import ServerManager
import llcuda.transport.sync
print("go", flush=True)
manager = ServerManager()
manager.start_server({model!r}, alias={alias!r}, threads=1)
"""


def kill_kernels(count: int, *, model: Path) -> Figures:
    """SIGKILL a notebook's kernel at a random moment of the cell that starts the server, or after it."""
    from jupyter_client.manager import KernelManager  # noqa: PLC0415 - the other modes do without

    figures = Figures("kernel")
    with bystanders(model) as others:
        for _ in range(count):
            alias = f"kill-{uuid.uuid4().hex}"
            strangers = all_pids()
            kernel = KernelManager()
            kernel.start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            client = kernel.client()
            client.start_channels()
            try:
                client.wait_for_ready(timeout=60)
                client.execute(KERNEL_CODE.format(model=str(model), alias=alias))
                wait_for_go(client)
                others.wait_a_moment()
                owner: Any = kernel.provisioner
                kill_and_watch(owner.pid, alias, strangers, figures=figures)
            finally:
                client.stop_channels()
                kernel.shutdown_kernel(now=True)
                kernel.cleanup_resources()
            others.check()
    return figures


def wait_for_go(client: Any) -> None:
    while True:
        message = client.get_iopub_msg(timeout=60)
        if message["msg_type"] == "error":
            raise AssertionError("\n".join(message["content"]["traceback"]))
        if message["msg_type"] == "stream" and "go" in message["content"]["text"]:
            return


def kill_and_watch(owner: int, alias: str, strangers: set[int], *, figures: Figures) -> None:
    figures.met += bool(find_marked(alias, strangers))
    death = os.pidfd_open(owner)
    killed = died = last_seen = time.monotonic()
    os.kill(owner, signal.SIGKILL)
    while (now := time.monotonic()) - last_seen < QUIET:
        if not select.select([death], [], [], 0)[0]:
            died = last_seen = now
        elif find_marked(alias, strangers | {owner}):
            last_seen = now
        if now - killed > PATIENCE:
            raise AssertionError(f"{figures.mode}: still there after {PATIENCE} s: {find_marked(alias, strangers)}")
    os.close(death)
    figures.times_ms.append((last_seen - killed) * 1000)
    figures.after_death_ms.append((last_seen - died) * 1000)


def stop_at_random_moments(count: int, *, model: Path) -> Figures:
    """Call stop_server from another thread at a random moment of the start, or after it."""
    return stop("stop-random", count, lambda _, others: others.wait_a_moment(), model=model)


def stop_when_listening(count: int, *, model: Path) -> Figures:
    """Call stop_server the moment that llama-server says that it listens: it can lose a SIGTERM then."""
    return stop("stop-listening", count, ask_to_end_at_the_line, model=model)


def ask_to_end_at_the_line(manager: ServerManager, _: Bystanders) -> None:
    """Say the word in the very thread that reads the line; nobody can be earlier."""
    wait_until(lambda: manager._run is not None)
    run: Any = manager._run
    child = run.child
    find = child.log._find_address

    def find_and_ask(line: bytes) -> None:
        find(line)
        if child.log.address:
            child._send(b"q")

    child.log._find_address = find_and_ask
    child.log.wait(PATIENCE)


def stop(mode: str, count: int, wait: Callable[[ServerManager, Bystanders], None], *, model: Path) -> Figures:
    """Start and stop ``count`` times; ``wait`` chooses the moment."""
    figures = Figures(mode)
    with bystanders(model) as others:
        neighbours = set(children_of(os.getpid()))
        for _ in range(count):
            alias = f"kill-{uuid.uuid4().hex}"
            strangers = all_pids()
            manager = ServerManager()
            starter = threading.Thread(target=start_quietly, args=(manager, model, alias))
            starter.start()
            wait(manager, others)
            started = time.monotonic()
            figures.met += bool(find_marked(alias, strangers))
            manager.stop_server()
            figures.times_ms.append((time.monotonic() - started) * 1000)
            starter.join(PATIENCE)
            left = find_marked(alias, strangers)
            assert not left, f"{mode}: {left} run after stop_server has returned"
            assert set(children_of(os.getpid())) <= neighbours, f"{mode}: a zombie is left"
            assert manager.state == "stopped"
            if manager.returncode is not None:
                figures.returncodes[manager.returncode] = figures.returncodes.get(manager.returncode, 0) + 1
            others.check()
    return figures


def start_quietly(manager: ServerManager, model: Path, alias: str) -> None:
    """Start; that it was stopped meanwhile is what is wanted."""
    with suppress(ServerError):
        manager.start_server(model, alias=alias, threads=1)


MODES: dict[str, Callable[..., Figures]] = {
    **{mode: (lambda count, *, model, mode=mode: kill_parents(mode, count, model=model)) for mode in PARENT_MODES},
    "kernel": kill_kernels,
    "stop-random": stop_at_random_moments,
    "stop-listening": stop_when_listening,
}


class Bystanders:
    """What must not be touched: a server of our own, a neighbour in our process group, and one in its own session."""

    def __init__(self, server: ServerManager, neighbours: list[subprocess.Popen[bytes]], start_time: float) -> None:
        self._server = server
        self._neighbours = neighbours
        self._start_time = start_time

    def wait_a_moment(self) -> None:
        time.sleep(random.uniform(0, LONGEST_DELAY * self._start_time))

    def check(self) -> None:
        assert all(is_alive(neighbour.pid) for neighbour in self._neighbours), "a bystander was touched"
        assert self._server.check_server_health(), "another server was touched"


@contextmanager
def bystanders(model: Path) -> Iterator[Bystanders]:
    """Run them."""
    with ServerManager() as server:
        started = time.monotonic()
        server.start_server(model, threads=1)
        start_time = time.monotonic() - started
        neighbours = [subprocess.Popen(["/bin/sleep", "36000"], start_new_session=own) for own in (False, True)]
        try:
            yield Bystanders(server, neighbours, start_time)
        finally:
            for neighbour in neighbours:
                with neighbour:
                    neighbour.kill()


def all_pids() -> set[int]:
    return {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()}


def find_marked(alias: str, strangers: set[int]) -> list[int]:
    """Return the living processes with ``alias`` on their command line: the guard, llama-server, one in between."""
    found = []
    for pid in all_pids() - strangers:
        with suppress(OSError):
            if alias.encode() in Path(f"/proc/{pid}/cmdline").read_bytes() and is_ours(pid):
                found.append(pid)
    return found


def is_ours(pid: int) -> bool:
    """Leave out the victim, which has the alias on its command line too, and what is dead already."""
    stat = read_stat(pid)
    with suppress(OSError):
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        return stat is not None and stat[0] not in "ZX" and (name.startswith(("llcuda-guard", "llama-server")))
    return False


@pytest.fixture(autouse=True)
def executables(binaries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_SERVER_PATH", str(binaries / "llama-server"))


@pytest.mark.parametrize("mode", PARENT_MODES)
def test_nothing_of_the_server_is_left_after_its_owner_was_killed(mode: str, tiny_model: Path) -> None:
    figures = MODES[mode](6, model=tiny_model)
    assert figures.met >= 1


def test_nothing_of_the_server_is_left_after_a_notebooks_kernel_was_killed(tiny_model: Path) -> None:
    pytest.importorskip("ipykernel", reason="needs ipykernel and jupyter_client, of the extra `test`")
    figures = MODES["kernel"](5, model=tiny_model)
    assert figures.met >= 1


@pytest.mark.parametrize("mode", ["stop-random", "stop-listening"])
def test_a_stop_at_any_moment_leaves_nothing(mode: str, tiny_model: Path) -> None:
    figures = MODES[mode](20, model=tiny_model)
    assert figures.met >= 1
    assert set(figures.returncodes) <= {0, 1, -15}, "in order, at the second SIGTERM, or before the handler was there"


def main(count: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        model = write_tiny_model(Path(folder) / "tiny.gguf")
        slow = False
        for mode, repeat in MODES.items():
            figures = repeat(count, model=model)
            sys.stdout.write(f"{figures}\n")
            sys.stdout.flush()
            slow |= not mode.startswith("stop") and max(figures.times_ms) >= _MAX_GONE_MS
        return int(slow)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
