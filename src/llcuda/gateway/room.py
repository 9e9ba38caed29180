"""Whether a second llama-server with the same model has room beside the one that runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llcuda.engine import DeviceReport

__all__ = ["has_room", "read_free_memory"]

_MIB = 1 << 20
_SPARE_MIB = 512
_SPARE_GPU_MIB = 1536
"""llama-server's own fitting leaves 1 GiB free and takes layers off the GPU otherwise; CUDA needs some of the rest."""
_SPARE_SHARE = 1.1
_UNLIMITED = "max"


def has_room(report: DeviceReport, *, gpus_free_mib: Mapping[str, int | None], memory_free_mib: int | None) -> bool:
    """Return whether every device could hold once more what the ``report`` says that it holds.

    ``gpus_free_mib`` is by the GPUs' UUIDs. What is not known counts as too little.
    """
    return all(
        _fits(use.total_bytes, gpus_free_mib.get(use.uuid), spare_mib=_SPARE_GPU_MIB)
        if use.uuid
        else _fits(use.total_bytes, memory_free_mib, spare_mib=_SPARE_MIB)
        for use in report.devices
    )


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
    """Return what a control group of version 2 leaves, None where there is none or no limit."""
    try:
        group = (root / "proc/self/cgroup").read_text(encoding="utf-8").partition("0::/")[2].splitlines()[0]
        folder = root / "sys/fs/cgroup" / group
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        return None if limit == _UNLIMITED else max(0, int(limit) - used) // _MIB
    except (OSError, ValueError, IndexError):
        return None


def _fits(size: int, free_mib: int | None, *, spare_mib: int) -> bool:
    return free_mib is not None and size / _MIB * _SPARE_SHARE + spare_mib <= free_mib
