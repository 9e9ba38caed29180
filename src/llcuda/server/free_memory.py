"""How much of the machine's memory is free, and how much of that a llama-server may keep old prompts in."""

from __future__ import annotations

from pathlib import Path

_MIB = 1 << 20
_UNLIMITED = "max"
_MOST_CACHED_MIB = 8192
"""llama-server's own default, whatever the machine has and however many of them run."""
_CACHED_SHARE = 4


def limit_prompt_cache(servers: int = 1) -> int | None:
    """Return how many MiB of prompts one of so many servers may keep; None if it is not known what is free.

    All of them together keep at most a quarter of the memory that is free now.
    """
    free = read_free_memory()
    return None if free is None else min(_MOST_CACHED_MIB, free // _CACHED_SHARE // servers)


def read_free_memory(root: Path = Path("/")) -> int | None:
    """Return how much of the machine's memory can be used, in MiB, within the limit of this process's group."""
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        available = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) // 1024
    except (OSError, StopIteration, ValueError, IndexError):
        return None
    left = _read_group_room(root)
    return available if left is None else min(available, left)


def _read_group_room(root: Path) -> int | None:
    """Return what a control group of version 2 leaves, None if there is none or no limit."""
    try:
        group = (root / "proc/self/cgroup").read_text(encoding="utf-8").partition("0::/")[2].splitlines()[0]
        folder = root / "sys/fs/cgroup" / group
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        return None if limit == _UNLIMITED else max(0, int(limit) - used) // _MIB
    except (OSError, ValueError, IndexError):
        return None
