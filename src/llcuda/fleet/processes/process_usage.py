"""How much of the machine a process has: of its memory, and of its processors' time."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["read_main_thread_seconds", "read_resident", "read_seconds_without_core"]

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def read_resident(pid: int | None, *, root: Path = Path("/proc")) -> int | None:
    """Return the bytes of memory that the process has, shared ones among them; None if there is no such process.

    A model's file that is mapped counts in every llama-server that reads it, though it is in memory once.
    """
    try:
        return int((root / str(pid) / "statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return None


def read_main_thread_seconds(pid: int | None, *, root: Path = Path("/proc")) -> float | None:
    """Return the seconds for which the first thread of the process has run; None if there is no such process."""
    try:
        # The name of a program may hold blanks and parentheses; the figures follow its last one.
        figures = (root / f"{pid}/task/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(figures[11]) + int(figures[12])) / _TICKS_PER_SECOND
    except (OSError, ValueError, IndexError):
        return None


def read_seconds_without_core(pid: int | None, *, root: Path = Path("/proc")) -> float:
    """Return the seconds for which threads of the process could have run and had no core, of all together.

    That is 0 if there is no such process, or if its kernel does not count them.
    """
    nanoseconds = 0
    for file in root.glob(f"{pid}/task/*/schedstat") if pid else ():
        with suppress(OSError, ValueError, IndexError):  # a thread may end meanwhile
            nanoseconds += int(file.read_text(encoding="ascii").split()[1])
    return nanoseconds / 1e9
