"""The words of a CUDA error that ended llama-server -> the error that says what is wrong with GPU, driver or library.

The words are those of cudaGetErrorString and cublasGetStatusString, which ggml-cuda.cu prints after ``CUDA error: ``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from llcuda.errors import (
    BinaryUnusableError,
    DeviceError,
    DriverTooOldError,
    LlcudaError,
    NoDeviceError,
    OutOfMemoryError,
    UnsupportedDeviceError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from llcuda.server.launch_facts import Launch

__all__ = ["explain_cuda", "make_gpu_out_of_memory", "make_library_missing", "without_retried"]

_ON_THE_CPU = 'device="cpu" works without it.'
_DMESG = "`dmesg | grep -i xid` may say what the GPU reported"
_NAMES = (
    r"using device CUDA{0} \((.+?)\)(?: \([0-9a-fA-F:.]+\))? - ",
    r"- CUDA{0} *: (.+) \(\d+ MiB, \d+ MiB free\)",
    r"Device {0}: (.+?), compute capability",
)


class _Crash(NamedTuple):
    """What is known of one CUDA error."""

    reason: str
    device: int
    log: str
    launch: Launch

    @property
    def gpu(self) -> str:
        return _name_gpu(self.log, self.device)


def explain_cuda(reason: str, log: str, *, launch: Launch) -> LlcudaError:
    """Return the error for ``CUDA error: reason``, or for what kept CUDA from being initialised, out of ``log``."""
    crash = _Crash(reason.strip().rstrip("."), _find_device(log), log, launch)
    for pattern, make in _REASONS:
        if re.search(pattern, crash.reason):
            return make(crash)
    return _fail(crash, f"Update the NVIDIA driver; {_DMESG}. {_ON_THE_CPU}")


def make_gpu_out_of_memory(found: re.Match[str], launch: Launch) -> OutOfMemoryError:
    """Return the error for ``allocating 1.00 MiB on device 0: cudaMalloc failed: out of memory``."""
    gpu = _name_gpu(found.string, int(found[2]))
    return _gpu_is_full(f"the memory of {gpu} is too small for {launch.model}: {found[1]} MiB more were not to be had")


def make_library_missing(found: re.Match[str], launch: Launch) -> BinaryUnusableError:
    """Return the error for the line that native/cublas prints."""
    reason = f"this model on this GPU needs {found['library']}, which {found['reason']}"
    return BinaryUnusableError(
        launch.executable, reason, missing=(found["library"],), hint=f"Run: {found['command'].strip()}"
    )


def without_retried(log: str) -> str:
    """Return the log without the failed allocations that llama-server got over by doing with less."""
    failed = r"(?:.*(?:out of memory|failed to allocate).*\n)+"
    return re.sub(rf"{failed}(?=.*retrying without pipeline parallelism)", "", log)


def _name_gpu(log: str, device: int) -> str:
    for pattern in _NAMES:
        found = re.search(pattern.format(device), log)
        if found:
            return f"CUDA{device} ({found[1]})"
    return f"CUDA{device}"


def _find_device(log: str) -> int:
    """Return the device of the CUDA error; -1, which is printed where CUDA does not run at all, counts as the first."""
    found = re.search(r"current device: (\d+)", log)
    return int(found[1]) if found else 0


def _gpu_is_full(message: str) -> OutOfMemoryError:
    hint = (
        "Leave gpu_layers and ctx_size out, and llama-server takes what fits; or set fewer gpu_layers, a smaller "
        'ctx_size, or device="cpu". `nvidia-smi` shows what else uses the GPU.'
    )
    return OutOfMemoryError(message, hint=hint)


def _out_of_memory(crash: _Crash) -> OutOfMemoryError:
    return _gpu_is_full(f"the memory of {crash.gpu} is too small for {crash.launch.model}: {crash.reason}")


def _no_kernel(crash: _Crash) -> UnsupportedDeviceError:
    built = re.search(r"CUDA : ARCHS = ([\d,]+)", crash.log)
    built_for = [f"{int(number) // 100}.{int(number) // 10 % 10}" for number in built[1].split(",")] if built else []
    seen = re.search(rf"Device {crash.device}: .+?, compute capability (\d+\.\d+)", crash.log)
    return UnsupportedDeviceError(
        seen[1] if seen else f"of {crash.gpu}",
        built_for=built_for or ["those that `llcuda doctor` lists"],
        hint='Use device="cpu", or build for this GPU: pip install --no-binary llcuda llcuda',
    )


def _driver_too_old(crash: _Crash) -> DriverTooOldError:
    return DriverTooOldError(crash.launch.driver or "of this machine", required=crash.launch.driver_floor)


def _driver_older_than_toolkit(crash: _Crash) -> DriverTooOldError:
    toolkit = crash.launch.toolkit
    required = f"the one that came with CUDA {toolkit}" if toolkit else "the one that came with this backend's CUDA"
    return DriverTooOldError(crash.launch.driver or "of this machine", required=required)


def _fail(crash: _Crash, hint: str) -> DeviceError:
    return DeviceError(f"CUDA failed on {crash.gpu}: {crash.reason}", hint=hint)


def _failure(hint: str) -> Callable[[_Crash], LlcudaError]:
    return lambda crash: _fail(crash, hint)


def _no_device(crash: _Crash) -> NoDeviceError:
    return NoDeviceError(
        f"CUDA finds no GPU: {crash.reason}",
        hint="Does `nvidia-smi` show one? Is it hidden by CUDA_VISIBLE_DEVICES, or is a container without --gpus all?",
    )


_REASONS: tuple[tuple[str, Callable[[_Crash], LlcudaError]], ...] = (
    (r"out of memory|resource allocation failed|CUBLAS_STATUS_ALLOC_FAILED", _out_of_memory),
    (r"no kernel image is available", _no_kernel),
    # What a driver before 550 says to GPU code that was compressed with nvcc --compress-mode=size.
    (r"device kernel image is invalid", _driver_too_old),
    (r"driver version is insufficient", _driver_too_old),
    (r"PTX was compiled with an unsupported toolchain", _driver_older_than_toolkit),
    (
        r"PTX JIT compil",
        _failure(
            "This backend has no machine code for this GPU, and the driver's PTX compiler is not there: install "
            f"libnvidia-ptxjitcompiler of the driver's version. {_ON_THE_CPU}"
        ),
    ),
    (
        r"unsupported display driver / cuda driver combination",
        _failure(
            "The driver's library does not match its kernel module. After an update of the driver, restart the "
            f"machine; in a container, take cuda/compat off LD_LIBRARY_PATH. {_ON_THE_CPU}"
        ),
    ),
    (
        r"forward compatibility was attempted",
        _failure(
            "A libcuda.so.1 that is not the driver's own is in use, and this GPU does not allow that: take cuda/compat "
            f"off LD_LIBRARY_PATH and out of ld.so.conf. {_ON_THE_CPU}"
        ),
    ),
    (
        r"system not yet initialized",
        _failure("GPUs that are joined by NVSwitch need a service: systemctl start nvidia-fabricmanager."),
    ),
    (r"no CUDA-capable device", _no_device),
    (
        r"busy or unavailable",
        _failure("Another process has it for itself, or its compute mode forbids all: `nvidia-smi -q -d COMPUTE`."),
    ),
    (
        r"launch timed out",
        _failure("The GPU drives a display, whose watchdog ends long work: use another GPU, or a smaller ubatch_size."),
    ),
    (
        r"illegal memory access|illegal instruction|misaligned address|illegal address",
        _failure(
            "Start it again; if it comes back with this model, it is a bug in llama.cpp or a GPU at fault: try "
            f'flash_attn="off", update llcuda and the driver; {_DMESG}.'
        ),
    ),
    (
        r"unspecified launch failure|hardware stack error|uncorrectable|lost|fallen off the bus|Xid",
        _failure(
            f"The GPU or its driver gave up: {_DMESG}. Overclocking, power, heat and the slot are the usual causes; "
            "restart the machine."
        ),
    ),
    (
        r"unknown error",
        _failure(
            "The driver is in a bad state, often after sleep or an update: restart the machine, or reload the kernel "
            "module with `sudo modprobe -r nvidia_uvm && sudo modprobe nvidia_uvm`."
        ),
    ),
    (r"library was not initialized", _failure(f"cuBLAS did not start, most often for want of memory. {_ON_THE_CPU}")),
)
