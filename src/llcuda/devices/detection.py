"""The GPUs and what they do: cheap facts first, then the cache, then NVML, then nvidia-smi, within one time limit."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from llcuda import settings
from llcuda.devices.diagnosis import explain_failure, explain_without_asking
from llcuda.devices.inventory import Devices, Failure, Inventory, Situation
from llcuda.devices.machine import Machine

if TYPE_CHECKING:
    from pathlib import Path

    from llcuda.devices.inventory import Gpu, GpuUsage

_TIMEOUT = 5.0
_LONGEST_TIMEOUT = 3600.0
_SLOW = 0.25
"""Seconds from which on an answer of NVML is worth keeping; a driver that stays loaded needs a tenth of that."""
_NO_NVML = Failure(Situation.UNKNOWN, "libnvidia-ml.so.1 was not found")
_ENOUGH = frozenset({Situation.DRIVER_MISMATCH, Situation.GPU_LOST, Situation.PERMISSION, Situation.NO_DEVICES})
"""What NVML says with certainty: nvidia-smi, which asks NVML, would say the same."""


def find_devices(*, refresh: bool = False, machine: Machine | None = None) -> Devices:
    """Return the GPUs of this machine, or in one sentence why there is none to use.

    ``refresh`` asks the driver even if a slow answer is in the cache. Raises UsageError for a GPU_DETECTION_TIMEOUT
    (seconds, 5 by default) that is no time; a machine without a GPU is an answer, not an error.
    """
    timeout = min(settings.get_seconds("GPU_DETECTION_TIMEOUT") or _TIMEOUT, _LONGEST_TIMEOUT)
    machine = machine or Machine()
    known = explain_without_asking(machine)
    if known:
        return known
    from llcuda.devices import cache  # noqa: PLC0415 - not needed if there is no driver

    path = cache.cache_path()
    key = cache.make_key(machine) if path else {}
    kept = cache.read_cache(path, key) if path and not refresh else None
    if kept:
        return kept
    started = monotonic()
    answer, source = _ask(machine, timeout)
    devices = _conclude(machine, answer, source)
    if path and (source != "nvml" or monotonic() - started > _SLOW):
        cache.write_cache(path, key, devices=devices)
    return devices


def _ask(machine: Machine, timeout: float) -> tuple[Inventory | Failure, str]:
    """Return what NVML says, or else nvidia-smi, and which of them it was."""
    deadline = monotonic() + timeout
    first = _ask_nvml(machine.find_library("libnvidia-ml.so.1"), timeout)
    if isinstance(first, Inventory) or first.situation in _ENOUGH:
        return first, "nvml"
    program, left = machine.find_program("nvidia-smi"), deadline - monotonic()
    if program is None or left <= 0:
        return first, "none"
    from llcuda.devices.nvidia_smi import read_nvidia_smi  # noqa: PLC0415 - not needed if NVML answers

    second = read_nvidia_smi(program, timeout=left, environ=machine.environ)
    vague = isinstance(second, Failure) and second.situation is Situation.UNKNOWN
    return (first, "none") if vague and first.situation is not Situation.UNKNOWN else (second, "nvidia-smi")


def _ask_nvml(library: Path | None, timeout: float) -> Inventory | Failure:
    if library is None:
        return _NO_NVML
    from llcuda.devices.nvml import read_nvml  # noqa: PLC0415 - not needed if there is no driver

    return read_nvml(library, timeout=timeout)


def _conclude(machine: Machine, answer: Inventory | Failure, source: str) -> Devices:
    if isinstance(answer, Failure):
        return explain_failure(machine, answer, source=source)
    if answer.cuda is None and machine.find_library("libcuda.so.1") is None:
        return _without_libcuda(machine, answer, source)
    if not answer.gpus:
        detail = f"{' and '.join(answer.empty_mig)}: MIG mode is on and no slice was made."
        remedy = "Make slices (`sudo nvidia-smi mig -cgi …  -C`), or switch MIG off (`sudo nvidia-smi -mig 0`)."
        return _describe(answer, source, Situation.MIG_EMPTY, detail=detail, remedy=remedy)
    from llcuda.devices.visibility import choose_visible  # noqa: PLC0415

    gpus, remark = choose_visible(
        answer.gpus,
        machine.environ.get("CUDA_VISIBLE_DEVICES"),
        order=machine.environ.get("CUDA_DEVICE_ORDER", ""),
    )
    if not gpus:
        return _describe(answer, source, Situation.HIDDEN, detail=remark, remedy=_UNHIDE)
    detail = " ".join((_count(gpus), *answer.lost, remark)).strip()
    hidden = tuple(gpu for gpu in answer.gpus if gpu not in gpus)
    return Devices(gpus, hidden, answer.driver, answer.cuda, source, Situation.OK, detail)


_UNHIDE = "Unset CUDA_VISIBLE_DEVICES, or give it a GPU that `nvidia-smi -L` lists."


def _describe(answer: Inventory, source: str, situation: Situation, *, detail: str, remedy: str) -> Devices:
    return Devices((), answer.gpus, answer.driver, answer.cuda, source, situation, detail, remedy)


def _without_libcuda(machine: Machine, answer: Inventory, source: str) -> Devices:
    if machine.is_wsl():
        remedy = "Run `wsl --update` in Windows; /usr/lib/wsl/lib must hold libcuda.so.1."
    elif machine.container():
        remedy = "Start the container with -e NVIDIA_DRIVER_CAPABILITIES=compute,utility."
    else:
        remedy = "Install the driver's CUDA library: libnvidia-compute on Ubuntu, libcuda1 on Debian."
    detail = "The NVIDIA driver works, and its CUDA library libcuda.so.1 is missing."
    return _describe(answer, source, Situation.NO_LIBCUDA, detail=detail, remedy=remedy)


def _count(gpus: tuple[Gpu, ...]) -> str:
    slices = sum(gpu.mig_profile is not None for gpu in gpus)
    kind = "MIG slice" if slices == len(gpus) else "NVIDIA GPU"
    return f"1 {kind} can be used." if len(gpus) == 1 else f"{len(gpus)} {kind}s can be used."


def has_driver(machine: Machine) -> bool:
    """Return whether there is a driver to ask, from facts that cost nothing to read."""
    return explain_without_asking(machine) is None


def read_usage(machine: Machine, *, timeout: float) -> tuple[GpuUsage, ...] | Failure:
    """Return what each GPU does now, from NVML or else nvidia-smi, or why nobody says it, after ``timeout`` seconds."""
    from llcuda.devices.nvidia_smi import read_smi_usage  # noqa: PLC0415 - not needed if there is no driver
    from llcuda.devices.nvml import read_nvml_usage  # noqa: PLC0415

    deadline = monotonic() + timeout
    library, program = machine.find_library("libnvidia-ml.so.1"), machine.find_program("nvidia-smi")
    answer = read_nvml_usage(library, timeout=timeout) if library else _NO_NVML
    left = deadline - monotonic()
    if isinstance(answer, tuple) or program is None or left <= 0:
        return answer
    return read_smi_usage(program, timeout=left, environ=machine.environ)
