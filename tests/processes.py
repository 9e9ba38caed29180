"""Looking at real processes: wait for a condition, find relatives, tell the living from the dead."""

from __future__ import annotations

import asyncio
import os
import re
import select
import signal
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 120.0
"""Seconds that a test waits for what must happen; never how long it takes."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.02


def read_peak(pid: int | None) -> float:
    """Return the most MiB that a process ever had."""
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    return int(line) / 1024


def wait_until(condition: Callable[[], object], *, timeout: float = PATIENCE, what: str = "") -> None:
    """Return once the condition holds; fail after ``timeout`` seconds. Who waits long takes the processor seldom."""
    deadline, pause = time.monotonic() + timeout, _FIRST_PAUSE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what or condition}")
        time.sleep(pause)
        pause = min(1.5 * pause, _LONGEST_PAUSE)


async def until(condition: Callable[[], object], *, timeout: float = PATIENCE) -> None:
    """Return as soon as the condition holds, and let the event loop run meanwhile."""

    async def wait() -> None:
        pause = _FIRST_PAUSE
        while not condition():
            await asyncio.sleep(pause)
            pause = min(1.5 * pause, _LONGEST_PAUSE)

    await asyncio.wait_for(wait(), timeout)


def read_stat(pid: int) -> tuple[str, int, int] | None:
    """Return state letter, parent and process group, or None where there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent, group = text.rpartition(")")[2].split()[:3]
    return state, int(parent), int(group)


def is_alive(pid: int) -> bool:
    """Tell whether the process runs: a zombie does not."""
    stat = read_stat(pid)
    return stat is not None and stat[0] not in "ZX"


def is_gone(pid: int) -> bool:
    """Tell whether nothing is left of the process, not even a zombie."""
    return read_stat(pid) is None


def policies_of(pid: int) -> set[int]:
    """Return how the kernel schedules the threads of the process: ``os.SCHED_OTHER``, ``os.SCHED_BATCH``, and so on."""
    return {os.sched_getscheduler(int(thread.name)) for thread in Path(f"/proc/{pid}/task").iterdir()}


def children_of(pid: int) -> list[int]:
    """Return the pids of the children."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            stat = read_stat(int(entry.name))
            if stat and stat[1] == pid:
                found.append(int(entry.name))
    return found


def wait_until_gone(*pids: int) -> None:
    """Return as soon as none of the processes runs any more."""
    for pid in pids:
        with suppress(ProcessLookupError):
            _await_end(os.pidfd_open(pid), pid)


def _await_end(handle: int, pid: int) -> None:
    try:
        assert select.select([handle], [], [], PATIENCE)[0], f"{pid} runs after {PATIENCE} s"
    finally:
        os.close(handle)


@contextmanager
def killed_at_the_end(*pids: int) -> Iterator[None]:
    """Kill what a failing test would leave behind."""
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
