"""The three questions that notebooks ask: is there a GPU, which one, and does this package run on it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llcuda.devices.backend_choice import choose_backend
from llcuda.devices.detection import find_devices
from llcuda.devices.machine import Machine

if TYPE_CHECKING:
    from llcuda.devices.backend_choice import BackendChoice
    from llcuda.devices.inventory import Devices


def check_gpu_compatibility() -> dict[str, Any]:
    """Return whether a GPU of this machine is used, and which.

    The keys: ``platform`` (colab, kaggle, wsl2, jetson, docker, podman, kubernetes, container, linux), ``gpu_name``
    and ``compute_capability`` (a number, 7.5; both None without a GPU), ``compatible``, ``reason`` (a sentence),
    ``backend`` (None for the CPU) and ``remedy``.
    """
    machine = Machine()
    devices, choice = _decide(machine)
    gpu = next(iter((*choice.gpus, *devices.gpus, *devices.hidden)), None)
    return {
        "platform": machine.platform(),
        "gpu_name": gpu.name if gpu else None,
        "compute_capability": float(gpu.capability) if gpu and gpu.capability else None,
        "compatible": choice.backend is not None,
        "reason": choice.sentence,
        "backend": choice.backend.name if choice.backend else None,
        "remedy": choice.remedy,
    }


def check_cuda_available() -> bool:
    """Return whether a bundled CUDA backend runs on a GPU of this machine."""
    return _decide(Machine())[1].backend is not None


def get_cuda_device_info() -> dict[str, Any] | None:
    """Return ``driver_version``, ``cuda_version`` and the ``gpus`` that CUDA programs see, or None for no GPU.

    Each GPU has ``index``, ``name``, ``uuid``, ``compute_capability``, ``memory_total_mib``, ``memory_free_mib`` and
    ``mig_profile``.
    """
    devices = find_devices()
    if not devices.gpus:
        return None
    gpus = [asdict(gpu) for gpu in devices.gpus]
    for gpu in gpus:
        gpu["compute_capability"] = gpu.pop("capability")
    return {"driver_version": devices.driver, "cuda_version": devices.cuda, "gpus": gpus}


def _decide(machine: Machine) -> tuple[Devices, BackendChoice]:
    from llcuda.native import find_backends  # noqa: PLC0415 - reads files

    devices = find_devices(machine=machine)
    return devices, choose_backend(devices, find_backends())
