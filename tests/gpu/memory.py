"""End a server in every way that there is, and watch how soon the memory that it held is free again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.gpu.nvml import MIB, Nvml
from tests.processes import children_of

if TYPE_CHECKING:
    from collections.abc import Callable

WAYS = ("unload", "kill guard", "kill parent")
TOLERANCE_MIB = 64.0
_TIMEOUT = 120.0

_PIPES: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
_VICTIM = """
import sys, llcuda
engine = llcuda.InferenceEngine()
engine.load_model(sys.argv[1], device=sys.argv[2], ctx_size=512, silent=True)
engine.infer("1", raw=True, max_tokens=2)
print("loaded", flush=True)
sys.stdin.readline()
engine.unload_model()
sys.stdin.readline()
"""


@dataclass(frozen=True, slots=True)
class Freed:
    """How one server's memory came back."""

    baseline_mib: float
    held_mib: float
    """What it had, over the baseline."""
    back_ms: float | None
    """Until the baseline was reached, or 64 MiB over it on a GPU; None if that was not so within two minutes."""
    left_mib: float


def end_and_watch(way: str, model: str, *, uuid: str | None) -> dict[str, float | None]:
    """Load the model in a process of its own, end it that way, and return what :class:`Freed` holds.

    What is watched is the memory of the GPU with this ``uuid``, or without one that of the llama-server process.
    """
    command = [sys.executable, "-c", _VICTIM, model, "cuda" if uuid else "cpu"]
    with ExitStack() as stack:
        gpu = stack.enter_context(Nvml(uuid)) if uuid else None
        baseline = gpu.used_mib() if gpu else 0.0
        victim = stack.enter_context(subprocess.Popen(command, **_PIPES, text=True))
        stack.callback(victim.kill)
        guard, server = _wait_until_loaded(victim)
        read = gpu.used_mib if gpu else lambda: _resident_mib(server)
        held = read() - baseline
        _end(way, victim, guard)
        limit = baseline + TOLERANCE_MIB if gpu else 0.0
        back = time_until(lambda: read() <= limit, timeout=_TIMEOUT)
        return asdict(Freed(baseline, held, None if back is None else back * 1e3, read() - baseline))


def _wait_until_loaded(victim: subprocess.Popen[str]) -> tuple[int, int]:
    assert victim.stdout
    if victim.stdout.readline() != "loaded\n":
        raise RuntimeError("the model could not be loaded; see the error above")
    (guard,) = children_of(victim.pid)
    (server,) = children_of(guard)
    return guard, server


def _end(way: str, victim: subprocess.Popen[str], guard: int) -> None:
    if way == "unload":
        assert victim.stdin
        victim.stdin.write("\n")
        victim.stdin.flush()
    else:
        os.kill(guard if way == "kill guard" else victim.pid, signal.SIGKILL)


def time_until(condition: Callable[[], bool], *, timeout: float) -> float | None:
    """Return the seconds until the condition holds; None where it does not in time."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > timeout:
            return None
        time.sleep(0.005)
    return time.monotonic() - started


def _resident_mib(pid: int) -> float:
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") / MIB
