"""Whether a process that is not ready yet is getting on: it reads its model, or its memory grows."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

__all__ = ["find_child", "measure_progress"]


def find_child(pid: int) -> int | None:
    """Return the process id of the first child of ``pid``, or None where it has none."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return None
    return int(children[0]) if children else None


def measure_progress(pid: int) -> tuple[int, int]:
    """Return the bytes that ``pid`` has read, from files and from disk, and its resident memory in pages.

    Reading a mapped model shows in the second and the third only, and in the third alone when it is cached. Zeros stand
    for what the kernel does not show.
    """
    return _bytes_read(pid), _resident_pages(pid)


def _bytes_read(pid: int) -> int:
    with suppress(OSError, ValueError, IndexError):
        lines = Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith(("rchar:", "read_bytes:")))
    return 0


def _resident_pages(pid: int) -> int:
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return 0
