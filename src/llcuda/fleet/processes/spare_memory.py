"""Whether a second llama-server with the same model has room beside the one that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llcuda.engine import DeviceReport

__all__ = ["has_room"]

_MIB = 1 << 20
_SPARE_MIB = 512
_SPARE_GPU_MIB = 1536
"""llama-server's own fitting leaves 1 GiB free and takes layers off the GPU otherwise; CUDA needs some of the rest."""
_SPARE_SHARE = 1.1


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


def _fits(size: int, free_mib: int | None, *, spare_mib: int) -> bool:
    return free_mib is not None and size / _MIB * _SPARE_SHARE + spare_mib <= free_mib
