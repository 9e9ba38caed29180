"""What the GPUs do now: their memory, their load and their temperature, from NVML or else from nvidia-smi."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from llcuda.devices.facts import Failure, Situation
from llcuda.devices.situations import explain_without_asking

if TYPE_CHECKING:
    from llcuda.devices.facts import GpuUsage
    from llcuda.devices.machine import Machine

__all__ = ["has_driver", "read_usage"]


def has_driver(machine: Machine) -> bool:
    """Return whether there is a driver to ask, from facts that cost nothing to read."""
    return explain_without_asking(machine) is None


def read_usage(machine: Machine, *, timeout: float) -> tuple[GpuUsage, ...] | Failure:
    """Return what each GPU does now, or why nobody says it, after at most ``timeout`` seconds."""
    from llcuda.devices.nvml import read_nvml_usage  # noqa: PLC0415 - not needed where there is no driver
    from llcuda.devices.smi import read_smi_usage  # noqa: PLC0415

    deadline = monotonic() + timeout
    library, program = machine.find_library("libnvidia-ml.so.1"), machine.find_program("nvidia-smi")
    answer: tuple[GpuUsage, ...] | Failure = Failure(Situation.UNKNOWN, "libnvidia-ml.so.1 was not found")
    if library is not None:
        answer = read_nvml_usage(library, timeout=timeout)
    left = deadline - monotonic()
    if isinstance(answer, tuple) or program is None or left <= 0:
        return answer
    return read_smi_usage(program, timeout=left, environ=machine.environ)
