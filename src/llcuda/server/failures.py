"""The last words of a llama-server that did not start -> the error that says what is wrong and what to do about it.

Each rule is a pattern of a line that llama-server or the dynamic loader prints. The first rule that matches any line
wins, so what is nearer to the cause stands before what follows from it. tests/data/logs has real logs for the rules.
"""

from __future__ import annotations

import os
import re
import signal
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple

from llcuda.errors import (
    BinaryUnusableError,
    DeviceError,
    DriverTooOldError,
    LlcudaError,
    ModelFormatError,
    ModelNotFoundError,
    NoDeviceError,
    OutOfMemoryError,
    PortInUseError,
    ServerExitedError,
    UnsupportedDeviceError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["TAIL_LINES", "Launch", "classify_failure"]

TAIL_LINES = 40

_REINSTALL = "Reinstall the package: pip install --force-reinstall --no-deps llcuda"
_SEE_HELP = "`llcuda-server --help` says what each option takes."
_DOWNLOAD_AGAIN = "The file is damaged or was not downloaded to its end: download it again."
_CHECK_PATH = "Check the path, and that this user may read the file."
_GUARD_STATUS = 125  # of native/guard.c
# The thread that logs writes a line's time, its level and its text one by one, and what ends llama-server may write
# its last words in between.
_LINE = r"^(?:\d+\.\d\d\.\d{3}\.\d{3} (?:[A-Z] )?)?"
_NOT_OPENED = r"(?:failed to open GGUF file|llama_adapter_lora_init: failed to open) '(?P<path>.+)'(?: \(|: )"
_STARTUP_CRASHES = (signal.SIGBUS, signal.SIGSEGV)
# Allocations that failed, and that llama-server got over by doing with less.
_RETRIED = r"(?:.*(?:out of memory|failed to allocate).*\n)+(?=.*retrying without pipeline parallelism)"


@dataclass(frozen=True, slots=True)
class Launch:
    """What was started: the facts that errors name."""

    executable: str = "llama-server"
    model: str = "the model"
    host: str = "127.0.0.1"
    port: int = 0
    driver_floor: str = "550.54.14"
    """The oldest driver for the backend in use."""
    toolkit: str = ""
    """The CUDA version that the backend was built with."""


def classify_failure(lines: Sequence[str], returncode: int | None, *, launch: Launch | None = None) -> LlcudaError:
    """Return the error for a llama-server that printed ``lines`` and ended with ``returncode``.

    ``returncode`` is an exit status or minus a signal's number. The error's ``log_tail`` is the last 40 lines.
    """
    launch = launch or Launch()
    error = _match(lines, launch) or _explain_exit(lines, returncode, launch)
    error.log_tail = tuple(lines[-TAIL_LINES:])
    return error


def _match(lines: Sequence[str], launch: Launch) -> LlcudaError | None:
    text = re.sub(_RETRIED, "", "\n".join(lines))
    for rule in _RULES:
        found = re.search(rule.pattern, text, re.MULTILINE)
        if found:
            return _say(rule, found, launch) if rule.message else rule.make(found, launch)
    return None


def _explain_exit(lines: Sequence[str], returncode: int | None, launch: Launch) -> LlcudaError:
    if returncode is None or returncode >= 0:
        said = next((line for line in reversed(lines) if " E " in line or "rror" in line), "")
        reason = f"llama-server ended with exit status {returncode}. {said}".strip()
        return ServerExitedError(reason, returncode=returncode)
    number = -returncode
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    if number == signal.SIGILL:
        reason = "this processor lacks an instruction that it was built with"
        return BinaryUnusableError(launch.executable, reason, hint="`llcuda doctor` says what it was built for.")
    if number in _STARTUP_CRASHES and not lines:
        reason = f"it died of {name} before its first word; it or one of its libraries is damaged"
        return BinaryUnusableError(launch.executable, reason, hint=_REINSTALL)
    hint = "The kernel kills what needs more memory than there is; dmesg tells." if number == signal.SIGKILL else ""
    return ServerExitedError(f"llama-server died of {name}", returncode=returncode, hint=hint)


class _Rule(NamedTuple):
    pattern: str
    make: Callable[..., LlcudaError]
    """An error's class; without a message, a function of the match and the launch."""
    message: str = ""
    """With the names of the pattern's groups and of the launch's facts in braces."""
    hint: str = ""


def _say(rule: _Rule, found: re.Match[str], launch: Launch) -> LlcudaError:
    facts = {**asdict(launch), **{name: text.strip() for name, text in found.groupdict().items()}}
    if "option" in facts:
        facts["option"] = facts["option"].lstrip("-").replace("-", "_")
    about = [facts[_ABOUT[rule.make]]] if rule.make in _ABOUT else []
    more: dict[str, object] = {"returncode": _GUARD_STATUS} if rule.make is ServerExitedError else {}
    if "library" in facts:
        more["missing"] = (facts["library"],)
    return rule.make(*about, rule.message.format(**facts), hint=rule.hint.format(**facts), **more)


_ABOUT: dict[Callable[..., LlcudaError], str] = {
    BinaryUnusableError: "executable", ModelFormatError: "model", ModelNotFoundError: "path",
}  # fmt: skip


def _no_backend(_found: re.Match[str], launch: Launch) -> LlcudaError:
    reason = "no CPU backend (libggml-cpu*.so) could be loaded"
    return BinaryUnusableError(launch.executable, reason, missing=("libggml-cpu.so",), hint=_REINSTALL)


def _library_failed(found: re.Match[str], launch: Launch) -> LlcudaError:
    library, others = found["library"], os.environ.get("LD_LIBRARY_PATH")
    reason = f"the library {library} is missing or damaged ({found['reason']})"
    hint = f"Try it without LD_LIBRARY_PATH, which is {others} here. " if others else ""
    return BinaryUnusableError(launch.executable, reason, missing=(library,), hint=hint + _REINSTALL)


def _port_taken(found: re.Match[str], launch: Launch) -> LlcudaError:
    return PortInUseError(found[1] or launch.host, int(found[2]))


def _gpu_full(found: re.Match[str], launch: Launch) -> LlcudaError:
    gpu = _name_gpu(found.string, int(found[2]))
    message = f"the memory of {gpu} is too small for {launch.model}: {found[1]} MiB more were not to be had"
    return OutOfMemoryError(message, hint=_LESS_MEMORY)


def _cuda_failed(found: re.Match[str], launch: Launch) -> LlcudaError:
    return explain_cuda(found[1], found.string, launch=launch)


_RULES = (
    _Rule(
        r"^llcuda-guard: cannot run .*: (?P<reason>Permission denied)$",
        BinaryUnusableError, "{reason}", "Run: chmod +x '{executable}'",
    ),
    _Rule(r"^llcuda-guard: cannot run .*: (?P<reason>[^:\n]+)$", BinaryUnusableError, "{reason}", _REINSTALL),
    _Rule(
        r"^llcuda-guard: (?P<reason>.+)$", ServerExitedError, "llama-server could not be started: {reason}",
        "Is a limit on processes, memory or open files reached? `ulimit -a` shows them.",
    ),
    _Rule(
        r"(?:error while loading shared libraries|symbol lookup error): (?P<library>\S+): (?P<reason>.+)$",
        _library_failed,
    ),
    _Rule(r": (?P<library>\S+): (?P<reason>version `.+' not found .+)$", _library_failed),
    _Rule(r"no backends are loaded", _no_backend),
    _Rule(
        _LINE + r"error: invalid argument: (?P<option>\S+)", UsageError, "llama-server knows no option {option}",
        "`llcuda-server --help` lists them; write _ for - in their names.",
    ),
    _Rule(
        _LINE + r'error while handling argument "(?P<option>\S+)": sto(?:i|f|l|ul|ull)$',
        UsageError, "llama-server does not take this value for {option}: not a number", _SEE_HELP,
    ),
    _Rule(
        _LINE + r'error while handling argument "(?P<option>\S+)": (?P<reason>.+)$',
        UsageError, "llama-server does not take this value for {option}: {reason}", _SEE_HELP,
    ),
    _Rule(_LINE + r"error: (?P<reason>.+)$", UsageError, "llama-server refuses an option: {reason}", _SEE_HELP),
    _Rule(
        r"couldn't bind HTTP server socket, hostname: (?P<socket>.*\.sock), port: \d+",
        UsageError, "nothing can listen on {socket}", "Is there something at this path already?",
    ),
    _Rule(r"couldn't bind HTTP server socket, hostname: (.*), port: (\d+)", _port_taken),
    # Printed by native/cublas.
    _Rule(
        r"llcuda: (?P<library>\S+) is needed for this model on this GPU and (?P<reason>was not found \(.*\))\. "
        r"Install it: (?P<command>.+)$",
        BinaryUnusableError, "this model on this GPU needs {library}, which {reason}", "Run: {command}",
    ),
    _Rule(
        r"llcuda: this (?P<library>\S+) (?P<reason>has no \w+)\. Install another: (?P<command>.+)$",
        BinaryUnusableError, "this model on this GPU needs {library}, which {reason}", "Run: {command}",
    ),
    _Rule(r"CUDA error: (.+)$", _cuda_failed),
    _Rule(r"(NVRM: Xid .+|GPU has fallen off the bus.*|GPU is lost.*)$", _cuda_failed),
    _Rule(r"allocating (\d+\.\d+) MiB on device (\d+): cudaMalloc failed: out of memory", _gpu_full),
    _Rule(
        r"(?i)(?P<reason>(?:[\w ]*out of memory|std::bad_alloc|insufficient memory|cannot allocate memory"
        r"|(?:failed|unable) to allocate).*)$",
        OutOfMemoryError, "there is not enough memory for {model}: {reason}", "",
    ),
    _Rule(
        _NOT_OPENED + r"No such file or directory\)?$", ModelNotFoundError, "there is no such file", _CHECK_PATH,
    ),
    _Rule(_NOT_OPENED + r"(?P<reason>.+?)\)?$", ModelNotFoundError, "cannot be opened ({reason})", _CHECK_PATH),
    _Rule(
        r"failed to read magic", ModelFormatError, "it is empty or not a file that can be read", _DOWNLOAD_AGAIN,
    ),
    _Rule(
        r"invalid magic characters: '(?P<magic>.*)', expected 'GGUF'",
        ModelFormatError, "not a GGUF file: it begins with '{magic}'", "Give a file in GGUF format.",
    ),
    _Rule(
        r"this GGUF file is version (?P<version>\d+)",
        ModelFormatError, "GGUF version {version} is unknown", "Update llcuda: pip install -U llcuda",
    ),
    _Rule(
        r"string length \d+ exceeds remaining file size",
        ModelFormatError, "the file ends inside its header", _DOWNLOAD_AGAIN,
    ),
    _Rule(
        r"failed to read (?:key-value pairs|header|tensor info|tensor data|the number of \w+)",
        ModelFormatError, "its header is damaged or cut off", _DOWNLOAD_AGAIN,
    ),
    _Rule(
        r"tensor '(?P<tensor>.+)' data is not within the file bounds",
        ModelFormatError, "the file ends before its tensor {tensor}", _DOWNLOAD_AGAIN,
    ),
    _Rule(
        r"unknown model architecture: '(?P<architecture>.+)'",
        ModelFormatError, "its architecture '{architecture}' is unknown to the llama.cpp in this package",
        "Update llcuda (pip install -U llcuda), or choose another model: `llcuda models list`.",
    ),
    _Rule(
        r"error loading model vocabulary: (?P<reason>.+)$",
        ModelFormatError, "it has no tokenizer that can be used ({reason})",
        "Choose a GGUF file of a complete language model.",
    ),
    _Rule(r"error loading model: (?P<reason>.+)$", ModelFormatError, "{reason}", _DOWNLOAD_AGAIN),
)  # fmt: skip


def explain_cuda(reason: str, log: str, *, launch: Launch) -> LlcudaError:
    """Return the error for ``CUDA error: reason``, or for what kept CUDA from being initialised, out of ``log``.

    The words are those of cudaGetErrorString and cublasGetStatusString, which ggml-cuda.cu prints.
    """
    reason = reason.strip().rstrip(".")
    # -1, which is printed if CUDA does not run at all, counts as the first device.
    current = re.search(r"current device: (\d+)", log)
    device = int(current[1]) if current else 0
    gpu = _name_gpu(log, device)
    if re.search(r"out of memory|resource allocation failed|CUBLAS_STATUS_ALLOC_FAILED", reason):
        return OutOfMemoryError(f"the memory of {gpu} is too small for {launch.model}: {reason}", hint=_LESS_MEMORY)
    if "no kernel image is available" in reason:
        return _not_built_for(gpu, log, device)
    # "Invalid" is what a driver before 550 says to GPU code that was compressed with nvcc --compress-mode=size.
    if re.search(r"device kernel image is invalid|driver version is insufficient", reason):
        return DriverTooOldError("of this machine", required=launch.driver_floor)
    if "PTX was compiled with an unsupported toolchain" in reason:
        toolkit = f"CUDA {launch.toolkit}" if launch.toolkit else "this backend's CUDA"
        return DriverTooOldError("of this machine", required=f"the one that came with {toolkit}")
    if "no CUDA-capable device" in reason:
        return NoDeviceError(f"CUDA finds no GPU: {reason}", hint=_IS_IT_HIDDEN)
    hint = next(hint for pattern, hint in _CUDA_HINTS if re.search(pattern, reason))
    return DeviceError(f"CUDA failed on {gpu}: {reason}", hint=hint)


def _not_built_for(gpu: str, log: str, device: int) -> UnsupportedDeviceError:
    built = re.search(r"CUDA : ARCHS = ([\d,]+)", log)
    built_for = [f"{int(number) // 100}.{int(number) // 10 % 10}" for number in built[1].split(",")] if built else []
    seen = re.search(rf"Device {device}: .+?, compute capability (\d+\.\d+)", log)
    return UnsupportedDeviceError(
        seen[1] if seen else f"of {gpu}",
        built_for=built_for or ["those that `llcuda doctor` lists"],
        hint='Use device="cpu", or build for this GPU: pip install --no-binary llcuda llcuda',
    )


def _name_gpu(log: str, device: int) -> str:
    found = (re.search(pattern.format(device), log) for pattern in _NAMES)
    name = next((match[1] for match in found if match), "")
    return f"CUDA{device} ({name})" if name else f"CUDA{device}"


_NAMES = (
    r"using device CUDA{0} \((.+?)\)(?: \([0-9a-fA-F:.]+\))? - ",
    r"- CUDA{0} *: (.+) \(\d+ MiB, \d+ MiB free\)",
    r"Device {0}: (.+?), compute capability",
)
_LESS_MEMORY = (
    "Leave gpu_layers and ctx_size out, and llama-server takes what fits; or set fewer gpu_layers, a smaller "
    'ctx_size, or device="cpu". `nvidia-smi` shows what else uses the GPU.'
)
_IS_IT_HIDDEN = (
    "Does `nvidia-smi` show one? Is it hidden by CUDA_VISIBLE_DEVICES, or is a container without --gpus all?"
)
_ON_THE_CPU = 'device="cpu" works without it.'
_DMESG = "`dmesg | grep -i xid` may say what the GPU reported"
_CUDA_HINTS = (
    (
        r"PTX JIT compil",
        ("This backend has no machine code for this GPU, and the driver's PTX compiler is not there: install "
        f"libnvidia-ptxjitcompiler of the driver's version. {_ON_THE_CPU}"),
    ),
    (
        r"unsupported display driver / cuda driver combination",
        ("The driver's library does not match its kernel module. After an update of the driver, restart the "
        f"machine; in a container, take cuda/compat off LD_LIBRARY_PATH. {_ON_THE_CPU}"),
    ),
    (
        r"forward compatibility was attempted",
        ("A libcuda.so.1 that is not the driver's own is in use, and this GPU does not allow that: take cuda/compat "
        f"off LD_LIBRARY_PATH and out of ld.so.conf. {_ON_THE_CPU}"),
    ),
    (
        r"system not yet initialized",
        "GPUs that are joined by NVSwitch need a service: systemctl start nvidia-fabricmanager.",
    ),
    (
        r"busy or unavailable",
        "Another process has it for itself, or its compute mode forbids all: `nvidia-smi -q -d COMPUTE`.",
    ),
    (
        r"launch timed out",
        "The GPU drives a display, whose watchdog ends long work: use another GPU, or ubatch_size=128.",
    ),
    (
        r"illegal memory access|illegal instruction|misaligned address|illegal address",
        ("Start it again; if it comes back with this model, it is a bug in llama.cpp or a GPU at fault: try "
        f'flash_attn="off", update llcuda and the driver; {_DMESG}.'),
    ),
    (
        r"unspecified launch failure|hardware stack error|uncorrectable|lost|fallen off the bus|Xid",
        (f"The GPU or its driver gave up: {_DMESG}. Overclocking, power, heat and the slot are the usual causes; "
        "restart the machine."),
    ),
    (
        r"unknown error",
        ("The driver is in a bad state, often after sleep or an update: restart the machine, or reload the kernel "
        "module with `sudo modprobe -r nvidia_uvm && sudo modprobe nvidia_uvm`."),
    ),
    (r"library was not initialized", f"cuBLAS did not start, most often for want of memory. {_ON_THE_CPU}"),
    (r"", f"Update the NVIDIA driver; {_DMESG}. {_ON_THE_CPU}"),
)
