"""Looking at real processes: wait for a condition, find relatives, tell the living from the dead."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 120.0
"""Seconds that a test waits for what must happen; never how long it takes."""


def read_peak(pid: int | None) -> float:
    """Return the most MiB that a process ever had."""
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    return int(line) / 1024


def wait_until(condition: Callable[[], object], *, timeout: float = PATIENCE, what: str = "") -> None:
    """Return as soon as the condition holds; fail after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what or condition}")
        time.sleep(0.001)


async def until(condition: Callable[[], object], *, timeout: float = PATIENCE) -> None:
    """Return as soon as the condition holds, and let the event loop run meanwhile."""

    async def wait() -> None:
        while not condition():  # noqa: ASYNC110 - it looks at what no event tells
            await asyncio.sleep(0.001)

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
    wait_until(lambda: not any(map(is_alive, pids)), what=f"none of {pids} runs")


@contextmanager
def killed_at_the_end(*pids: int) -> Iterator[None]:
    """Kill what a failing test would leave behind."""
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
