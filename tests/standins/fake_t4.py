"""A T4 that is not there: what is found of it, and the installer's process on such a machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import llcuda.devices
from llcuda.devices import Devices, Gpu, Situation, compatibility
from llcuda.engine import placement
from llcuda.gateway.admin import install_child
from llcuda.installer import install
from llcuda.native import Backend

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BACKEND", "T4", "devices", "put_t4", "run_installer"]

T4 = Gpu(index=0, name="Tesla T4", uuid="GPU-t4", capability="7.5", memory_total_mib=15360, memory_free_mib=15100)
BACKEND = Backend(
    name="cuda12",
    library=Path("/package/binaries/cuda12/libggml-cuda.so"),
    toolkit="12.9.86",
    architectures=("sm_75", "compute_90"),
    driver_floor="550.54.14",
    compression="size",
    flash_attention=True,
    cuda_graphs=True,
    cublas="libcublas.so.12",
)


def devices(*gpus: Gpu, **changes: Any) -> Devices:
    facts: dict[str, Any] = {
        "gpus": gpus,
        "hidden": (),
        "driver": "580.65.06",
        "cuda": "13.0",
        "source": "nvml",
        "situation": Situation.OK if gpus else Situation.NO_NVIDIA,
        "detail": "" if gpus else "This machine has no NVIDIA GPU.",
        **changes,
    }
    return Devices(**facts)


def put_t4(change: Callable[[object, str, Any], None] = setattr) -> None:
    """Put it into this process."""
    for module in (install, placement, install_child, compatibility, llcuda.devices):
        change(module, "find_devices", lambda **_: devices(T4))


def run_installer(action: str, source: str | None) -> int:
    """Do what the gateway starts a process for."""
    put_t4()
    return install_child.main(action, source)
