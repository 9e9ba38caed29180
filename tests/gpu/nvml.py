"""What NVML says about one GPU's memory and who uses it: asked here anew, not through the package that is tested."""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

MIB = 1 << 20
_MAX_PROCESSES = 256
_PROCESS = struct.Struct("@IQII")  # nvmlProcessInfo_t: pid, bytes of the GPU's memory, two numbers of MIG


class Nvml:
    """One GPU, by its UUID, as long as the ``with`` block lasts."""

    def __init__(self, uuid: str) -> None:
        """Open NVML; raises OSError where it is not there or refuses."""
        self._library = ctypes.CDLL("libnvidia-ml.so.1")
        self._call("nvmlInit_v2")
        self._device = ctypes.c_void_p()
        self._call("nvmlDeviceGetHandleByUUID", uuid.encode(), ctypes.byref(self._device))

    def used_mib(self) -> float:
        """Return how much of the GPU's memory is in use."""
        total_free_used = (ctypes.c_ulonglong * 3)()
        self._call("nvmlDeviceGetMemoryInfo", self._device, total_free_used)
        return total_free_used[2] / MIB

    def processes(self) -> set[int]:
        """Return the process ids of those that compute on the GPU, as the driver counts them."""
        count = ctypes.c_uint(_MAX_PROCESSES)
        found = ctypes.create_string_buffer(_PROCESS.size * _MAX_PROCESSES)
        self._call("nvmlDeviceGetComputeRunningProcesses_v3", self._device, ctypes.byref(count), found)
        return {pid for pid, *_ in _PROCESS.iter_unpack(found.raw[: _PROCESS.size * count.value])}

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code != 0:
            raise OSError(f"{name} failed with NVML error {code}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._call("nvmlShutdown")
