"""What is said about the GPUs of a machine: one GPU, all of them, and the situation that they are in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Situation(str, Enum):
    """Why the GPUs of a machine can be used, or cannot; the value is a word that stays the same."""

    OK = "ok"
    NO_NVIDIA = "no-nvidia"
    NO_DRIVER = "no-driver"
    NO_LIBCUDA = "no-libcuda"
    DRIVER_MISMATCH = "driver-mismatch"
    CONTAINER_WITHOUT_GPUS = "container-without-gpus"
    HIDDEN = "hidden"
    HYBRID_OFF = "hybrid-off"
    NO_DEVICES = "no-devices"
    MIG_EMPTY = "mig-empty"
    PERMISSION = "permission-denied"
    GPU_LOST = "gpu-lost"
    WSL_NO_GPU = "wsl-no-gpu"
    JETSON = "jetson"
    AMD = "amd"
    INTEL = "intel"
    TIMEOUT = "timeout"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, or one MIG slice of it, as the driver names it."""

    index: int
    """As nvidia-smi counts, in the order of the PCI bus; a MIG slice has its GPU's."""
    name: str
    uuid: str
    """``GPU-…``, or ``MIG-…`` for a slice: what CUDA_VISIBLE_DEVICES takes."""
    capability: str
    """The compute capability, such as ``7.5``; empty if a driver is too old to tell."""
    memory_total_mib: int
    """0 if the driver does not tell, as on a GPU that shares the machine's memory."""
    memory_free_mib: int | None = None
    """None if it is not known, which is always so for what was read from the cache."""
    mig_profile: str | None = None
    """``1g.10gb`` for a MIG slice."""


@dataclass(frozen=True, slots=True)
class Devices:
    """What was found, and in one sentence what it means."""

    gpus: tuple[Gpu, ...]
    """Those that a CUDA program started from here can see, in the order of CUDA_VISIBLE_DEVICES."""
    hidden: tuple[Gpu, ...]
    """Those that are there and cannot be seen by it."""
    driver: str | None
    cuda: str | None
    """The newest CUDA that the driver runs, such as ``12.4``."""
    source: str
    """``nvml``, ``nvidia-smi``, ``cache``, or ``none`` if nobody was asked."""
    situation: Situation
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Inventory:
    """What NVML or nvidia-smi lists, before CUDA_VISIBLE_DEVICES; a GPU in MIG mode stands there as its slices."""

    gpus: tuple[Gpu, ...]
    driver: str | None = None
    cuda: str | None = None
    lost: tuple[str, ...] = ()
    """One sentence for each GPU that is listed and does not answer."""
    empty_mig: tuple[str, ...] = ()
    """The names of the GPUs in MIG mode that have no slice."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why NVML or nvidia-smi gave no answer, with its own words."""

    situation: Situation
    text: str
    driver: str | None = None


@dataclass(frozen=True, slots=True)
class GpuUsage:
    """What one GPU does now; None if its driver does not say."""

    index: int
    name: str
    uuid: str
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    utilization: float | None
    """The share of the last moments in which it computed anything, 0 to 1."""
    temperature_celsius: float | None
