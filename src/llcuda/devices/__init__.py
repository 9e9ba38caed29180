"""The GPUs of this machine, what stands in their way, and the CUDA backend that fits them."""

from __future__ import annotations

from llcuda.devices.backend_choice import BackendChoice, choose_backend, parse_device, visible_devices
from llcuda.devices.compatibility import check_cuda_available, check_gpu_compatibility, get_cuda_device_info
from llcuda.devices.detection import find_devices
from llcuda.devices.inventory import Devices, Gpu, Situation

__all__ = [
    "BackendChoice",
    "Devices",
    "Gpu",
    "Situation",
    "check_cuda_available",
    "check_gpu_compatibility",
    "choose_backend",
    "find_devices",
    "get_cuda_device_info",
    "parse_device",
    "visible_devices",
]
