"""What a machine is, for a benchmark's report: its GPU, processor and driver, and how fast the GPU's memory is."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import statistics
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["DATASHEET_GBPS", "describe_machine", "measure_copy"]

DATASHEET_GBPS = {
    "Tesla P100-PCIE-16GB": 732,
    "Tesla V100-SXM2-16GB": 900,
    "Tesla V100-SXM2-32GB": 900,
    "Tesla T4": 320,
    "NVIDIA A10": 600,
    "NVIDIA A10G": 600,
    "NVIDIA L4": 300,
    "NVIDIA L40S": 864,
    "NVIDIA RTX A6000": 768,
    "NVIDIA A100-SXM4-40GB": 1555,
    "NVIDIA A100-PCIE-40GB": 1555,
    "NVIDIA A100 80GB PCIe": 1935,
    "NVIDIA A100-SXM4-80GB": 2039,
    "NVIDIA H100 PCIe": 2000,
    "NVIDIA H100 80GB HBM3": 3350,
    "NVIDIA H200": 4800,
    "NVIDIA H200 NVL": 4800,
    "NVIDIA GeForce RTX 3090": 936,
    "NVIDIA GeForce RTX 4090": 1008,
    "NVIDIA GeForce RTX 5090": 1792,
}
"""GB/s of the GPU's memory by the name that nvidia-smi gives it, as NVIDIA's datasheet of that GPU says."""

_QUERY = (
    "name", "uuid", "driver_version", "memory.total", "compute_cap", "power.limit", "clocks.max.sm",
    "clocks.max.mem", "persistence_mode", "pcie.link.gen.current", "pcie.link.width.current",
)  # fmt: skip
_COPY_BYTES = 4 << 30
_COPIES = 20


def describe_machine() -> dict[str, Any]:
    """Return what figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    cpu = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    return {
        "gpus": _query_gpus(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def _query_gpus() -> list[dict[str, str]]:
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if result.returncode != 0:
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in result.stdout.splitlines()]
    return [dict(zip(_QUERY, row, strict=True)) for row in rows]


def measure_copy() -> float:
    """Return the GB/s of copies within the first GPU's memory, bytes read and bytes written: a median.

    Raises OSError where libcuda is not there or refuses.
    """
    cuda = _Cuda()
    source, target = (cuda.allocate(_COPY_BYTES) for _ in range(2))
    seconds = [cuda.time_copy(source, target, _COPY_BYTES) for _ in range(_COPIES)]
    return 2 * _COPY_BYTES / statistics.median(seconds[2:]) / 1e9


class _Cuda:
    """The few calls of the CUDA driver's own interface that a timed copy needs; the context ends with the process."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        self._call("cuInit", 0)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        self._events = [self._create_event() for _ in range(2)]

    def allocate(self, size: int) -> ctypes.c_uint64:
        """Return the address of so much of the GPU's memory, with something in it."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        self._call("cuMemsetD8_v2", address, ctypes.c_ubyte(0xA5), ctypes.c_size_t(size))
        return address

    def time_copy(self, source: ctypes.c_uint64, target: ctypes.c_uint64, size: int) -> float:
        """Return the seconds that a copy takes, by the GPU's own clock."""
        begun, ended = self._events
        self._call("cuEventRecord", begun, None)
        self._call("cuMemcpyDtoDAsync_v2", target, source, ctypes.c_size_t(size), None)
        self._call("cuEventRecord", ended, None)
        self._call("cuEventSynchronize", ended)
        elapsed = ctypes.c_float()
        self._call("cuEventElapsedTime", ctypes.byref(elapsed), begun, ended)
        return float(elapsed.value) / 1e3

    def _create_event(self) -> ctypes.c_void_p:
        event = ctypes.c_void_p()
        self._call("cuEventCreate", ctypes.byref(event), ctypes.c_uint(0))
        return event

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code != 0:
            raise OSError(f"{name} failed with CUDA error {code}")
