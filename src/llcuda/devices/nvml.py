"""Asking NVML, the driver's management library, through ctypes: no other package, no CUDA context.

The calls run in a thread of their own, because a driver that hangs does so inside an ioctl that nothing can interrupt.
"""

from __future__ import annotations

import ctypes
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from llcuda.devices.inventory import Failure, Gpu, GpuUsage, Inventory, Situation

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")

# nvmlReturn_t, as nvml.h numbers it. nvidia-smi exits with the same numbers.
_SITUATIONS = {
    4: Situation.PERMISSION,
    8: Situation.GPU_LOST,  # the power cables are not attached
    9: Situation.NO_DRIVER,
    10: Situation.TIMEOUT,
    15: Situation.GPU_LOST,
    17: Situation.WSL_NO_GPU,  # "GPU access blocked by the operating system"
    18: Situation.DRIVER_MISMATCH,
}
_NOT_FOUND = 6
_GPU_CORE = 0
"""The sensor, as nvmlTemperatureSensors_t numbers it."""
_MIB = 1 << 20
_TEXT_BYTES = 256
_stuck: list[threading.Thread] = []


def read_nvml(library: Path, *, timeout: float) -> Inventory | Failure:
    """Return what NVML lists, or why it does not, after at most ``timeout`` seconds.

    A call that hangs keeps its thread; as long as it does, NVML is not asked again.
    """
    return _ask(library, _read_inventory, timeout=timeout)


def read_nvml_usage(library: Path, *, timeout: float) -> tuple[GpuUsage, ...] | Failure:
    """Return what each whole GPU does now, or why that cannot be said; it takes as long as :func:`read_nvml`."""
    return _ask(library, _read_usages, timeout=timeout)


def _ask(library: Path, read: Callable[[Any], T | Failure], *, timeout: float) -> T | Failure:
    _stuck[:] = [thread for thread in _stuck if thread.is_alive()]
    answers: list[T | Failure] = []
    if not _stuck:
        thread = threading.Thread(target=lambda: answers.append(_read(library, read)), name="llcuda-nvml", daemon=True)
        thread.start()
        thread.join(timeout)
        if thread.is_alive():
            _stuck.append(thread)
    return answers[0] if answers else Failure(Situation.TIMEOUT, f"NVML gave no answer within {timeout:g} seconds")


def _read(library: Path, read: Callable[[Any], T | Failure]) -> T | Failure:
    try:
        nvml = ctypes.CDLL(str(library))
        code = int(nvml.nvmlInit_v2())
        if code:
            return _describe(nvml, code)
        try:
            return read(nvml)
        finally:
            nvml.nvmlShutdown()
    except (OSError, AttributeError) as error:
        return Failure(Situation.UNKNOWN, f"{library} cannot be used: {error}")


def _describe(nvml: Any, code: int, *, driver: str | None = None) -> Failure:
    nvml.nvmlErrorString.restype = ctypes.c_char_p
    words = (nvml.nvmlErrorString(code) or b"").decode("utf-8", "replace")
    return Failure(_SITUATIONS.get(code, Situation.UNKNOWN), f"NVML error {code}: {words}", driver)


def _read_inventory(nvml: Any) -> Inventory | Failure:
    driver = _text(nvml, "nvmlSystemGetDriverVersion")
    code, count = _number(nvml, "nvmlDeviceGetCount_v2")
    if code:
        return _describe(nvml, code, driver=driver)
    if not count:
        return Failure(Situation.NO_DEVICES, "NVML lists no device", driver)
    gpus: list[Gpu] = []
    failures: list[Failure] = []
    lost: list[str] = []
    empty: list[str] = []
    for index in range(count):
        code, handle = _handle(nvml, "nvmlDeviceGetHandleByIndex_v2", index)
        if code:
            failures.append(_describe(nvml, code, driver=driver))
            lost.append(f"GPU {index} does not answer ({failures[-1].text}).")
            continue
        gpu = _read_gpu(nvml, handle, index=index)
        if not _is_mig(nvml, handle):
            gpus.append(gpu)
            continue
        slices = _read_slices(nvml, handle, gpu)
        gpus += slices
        empty += [] if slices else [gpu.name]
    if failures and not gpus and not empty:
        return failures[0]
    return Inventory(tuple(gpus), driver, _read_cuda(nvml), tuple(lost), tuple(empty))


def _read_usages(nvml: Any) -> tuple[GpuUsage, ...] | Failure:
    code, count = _number(nvml, "nvmlDeviceGetCount_v2")
    if code:
        return _describe(nvml, code)
    handles = [_handle(nvml, "nvmlDeviceGetHandleByIndex_v2", index) for index in range(count)]
    return tuple(_read_usage(nvml, handle, index) for index, (failed, handle) in enumerate(handles) if not failed)


def _read_usage(nvml: Any, handle: Any, index: int) -> GpuUsage:
    total, _, used = _memory(nvml, handle)
    rates = (ctypes.c_uint * 2)()  # nvmlUtilization_t: gpu, memory, in percent
    knows_rates = not nvml.nvmlDeviceGetUtilizationRates(handle, rates)
    celsius = ctypes.c_uint()
    knows_temperature = not nvml.nvmlDeviceGetTemperature(handle, _GPU_CORE, ctypes.byref(celsius))
    return GpuUsage(
        index=index,
        name=_text(nvml, "nvmlDeviceGetName", handle) or "NVIDIA GPU",
        uuid=_text(nvml, "nvmlDeviceGetUUID", handle) or "",
        memory_used_bytes=used,
        memory_total_bytes=total,
        utilization=rates[0] / 100 if knows_rates else None,
        temperature_celsius=float(celsius.value) if knows_temperature else None,
    )


def _read_cuda(nvml: Any) -> str | None:
    # The second version asks libcuda itself, and fails if there is none; the first one guesses.
    code, version = _number(nvml, "nvmlSystemGetCudaDriverVersion_v2")
    return f"{version // 1000}.{version % 1000 // 10}" if not code and version else None


def _read_gpu(nvml: Any, handle: Any, *, index: int) -> Gpu:
    total, free, _ = _memory(nvml, handle)
    return Gpu(
        index=index,
        name=_text(nvml, "nvmlDeviceGetName", handle) or "NVIDIA GPU",
        uuid=_text(nvml, "nvmlDeviceGetUUID", handle) or "",
        capability=_capability(nvml, handle),
        memory_total_mib=(total or 0) // _MIB,
        memory_free_mib=None if free is None else free // _MIB,
    )


def _read_slices(nvml: Any, handle: Any, parent: Gpu) -> list[Gpu]:
    _, most = _number(nvml, "nvmlDeviceGetMaxMigDeviceCount", handle)
    found: list[Gpu] = []
    for number in range(most):
        code, slice_ = _handle(nvml, "nvmlDeviceGetMigDeviceHandleByIndex", handle, number)
        if not code:
            found.append(_read_slice(nvml, slice_, parent))
        elif code != _NOT_FOUND:
            break
    return found


def _read_slice(nvml: Any, handle: Any, parent: Gpu) -> Gpu:
    gpu = _read_gpu(nvml, handle, index=parent.index)
    named = "MIG " in gpu.name
    return replace(
        gpu,
        name=gpu.name if named else f"{parent.name} MIG",
        capability=gpu.capability or parent.capability,
        mig_profile=gpu.name.rpartition("MIG ")[2] if named else "unknown",
    )


def _is_mig(nvml: Any, handle: Any) -> bool:
    current, pending = ctypes.c_uint(), ctypes.c_uint()
    ask = getattr(nvml, "nvmlDeviceGetMigMode", None)
    return bool(ask and not ask(handle, ctypes.byref(current), ctypes.byref(pending)) and current.value)


def _memory(nvml: Any, handle: Any) -> tuple[int | None, int | None, int | None]:
    """Return how many bytes there are, are free and are used."""
    sizes = (ctypes.c_ulonglong * 3)()  # nvmlMemory_t
    return (None, None, None) if nvml.nvmlDeviceGetMemoryInfo(handle, sizes) else (sizes[0], sizes[1], sizes[2])


def _capability(nvml: Any, handle: Any) -> str:
    major, minor = ctypes.c_int(), ctypes.c_int()
    failed = nvml.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor))
    return "" if failed else f"{major.value}.{minor.value}"


def _text(nvml: Any, name: str, *arguments: Any) -> str | None:
    text = ctypes.create_string_buffer(_TEXT_BYTES)
    failed = getattr(nvml, name)(*arguments, text, ctypes.c_uint(_TEXT_BYTES))
    return None if failed else text.value.decode("utf-8", "replace")


def _number(nvml: Any, name: str, *arguments: Any) -> tuple[int, int]:
    """Return the error code and the number; a function that an old driver lacks is error 13, as NVML has it."""
    value = ctypes.c_uint()
    ask = getattr(nvml, name, None)
    return (int(ask(*arguments, ctypes.byref(value))) if ask else 13), value.value


def _handle(nvml: Any, name: str, *arguments: Any) -> tuple[int, Any]:
    handle = ctypes.c_void_p()
    return int(getattr(nvml, name)(*arguments, ctypes.byref(handle))), handle
