"""How much of the machine's memory a process has."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["read_resident"]

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def read_resident(pid: int | None, *, root: Path = Path("/proc")) -> int | None:
    """Return the bytes of memory that the process has, shared ones among them; None where there is no such process.

    A model's file that is mapped counts in every llama-server that reads it, though it is in memory once.
    """
    try:
        return int((root / str(pid) / "statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return None
