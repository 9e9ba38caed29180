"""The last words of a llama-server that did not start -> the error that says what is wrong and what to do about it.

Each rule is a pattern of a line that llama-server or the dynamic loader prints. The first rule that matches any line
wins, so what is nearer to the cause stands before what follows from it. tests/data/logs has real logs for the rules.
"""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING, NamedTuple

from llcuda.errors import (
    BinaryUnusableError,
    LlcudaError,
    ModelFormatError,
    ModelNotFoundError,
    OutOfMemoryError,
    PortInUseError,
    ServerExitedError,
    UsageError,
)
from llcuda.server.failures_cuda import explain_cuda, make_gpu_out_of_memory, make_library_missing, without_retried
from llcuda.server.launch_facts import Launch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["TAIL_LINES", "classify_failure"]

TAIL_LINES = 40

_REINSTALL = "Reinstall the package: pip install --force-reinstall --no-deps llcuda"
_SEE_HELP = "`llcuda-server --help` says what each option takes."
_UPDATE = "Update llcuda: pip install -U llcuda"
_DOWNLOAD_AGAIN = "The file is damaged or was not downloaded to its end: download it again."
_GUARD_STATUS = 125  # of native/guard.c
# The thread that logs writes a line's time, its level and its text one by one, and what ends llama-server may write
# its last words in between.
_LINE = r"^(?:\d+\.\d\d\.\d{3}\.\d{3} (?:[A-Z] )?)?"
_STARTUP_CRASHES = (signal.SIGBUS, signal.SIGSEGV)


class _Rule(NamedTuple):
    pattern: re.Pattern[str]
    make: Callable[[re.Match[str], Launch], LlcudaError]


def classify_failure(lines: Sequence[str], returncode: int | None, *, launch: Launch | None = None) -> LlcudaError:
    """Return the error for a llama-server that printed ``lines`` and ended with ``returncode``.

    ``returncode`` is an exit status or minus a signal's number. The error's ``log_tail`` is the last 40 lines.
    """
    launch = launch or Launch()
    error = _match(lines, launch) or _explain_exit(lines, returncode, launch)
    error.log_tail = tuple(lines[-TAIL_LINES:])
    return error


def _match(lines: Sequence[str], launch: Launch) -> LlcudaError | None:
    text = without_retried("\n".join(lines))
    for rule in _RULES:
        found = rule.pattern.search(text)
        if found:
            return rule.make(found, launch)
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


def _cannot_run(found: re.Match[str], launch: Launch) -> LlcudaError:
    hint = f"Run: chmod +x '{launch.executable}'" if found["reason"] == "Permission denied" else _REINSTALL
    return BinaryUnusableError(launch.executable, found["reason"], hint=hint)


def _guard_failed(found: re.Match[str], _launch: Launch) -> LlcudaError:
    hint = "Is a limit on processes, memory or open files reached? `ulimit -a` shows them."
    return ServerExitedError(f"llama-server could not be started: {found[1]}", returncode=_GUARD_STATUS, hint=hint)


def _library_missing(found: re.Match[str], launch: Launch) -> LlcudaError:
    reason = f"the library {found[1]} is missing or damaged ({found[2]})"
    return BinaryUnusableError(launch.executable, reason, missing=(found[1],), hint=_REINSTALL)


def _no_backend(_found: re.Match[str], launch: Launch) -> LlcudaError:
    reason = "no CPU backend (libggml-cpu*.so) could be loaded"
    return BinaryUnusableError(launch.executable, reason, missing=("libggml-cpu.so",), hint=_REINSTALL)


def _unknown_option(found: re.Match[str], _launch: Launch) -> LlcudaError:
    name = found[1].lstrip("-").replace("-", "_")
    return UsageError(
        f"llama-server knows no option {name}", hint="`llcuda-server --help` lists them; write _ for - in their names."
    )


def _bad_value(found: re.Match[str], _launch: Launch) -> LlcudaError:
    name = found[1].lstrip("-").replace("-", "_")
    reason = "not a number" if found[2] in {"stoi", "stof", "stol", "stoul", "stoull"} else found[2]
    return UsageError(f"llama-server does not take this value for {name}: {reason}", hint=_SEE_HELP)


def _bad_option(found: re.Match[str], _launch: Launch) -> LlcudaError:
    return UsageError(f"llama-server refuses an option: {found[1]}", hint=_SEE_HELP)


def _port_taken(found: re.Match[str], launch: Launch) -> LlcudaError:
    if found[1].endswith(".sock"):
        return UsageError(f"nothing can listen on {found[1]}", hint="Is there something at this path already?")
    return PortInUseError(found[1] or launch.host, int(found[2]))


def _no_memory(found: re.Match[str], launch: Launch) -> LlcudaError:
    return OutOfMemoryError(f"there is not enough memory for {launch.model}: {found[1].strip()}")


def _cuda_failed(found: re.Match[str], launch: Launch) -> LlcudaError:
    return explain_cuda(found[1], found.string, launch=launch)


def _file_missing(found: re.Match[str], _launch: Launch) -> LlcudaError:
    reason = "there is no such file" if found[2] == "No such file or directory" else f"cannot be opened ({found[2]})"
    return ModelNotFoundError(found[1], reason, hint="Check the path, and that this user may read the file.")


def _format(reason: str, hint: str = _DOWNLOAD_AGAIN) -> Callable[[re.Match[str], Launch], LlcudaError]:
    def make(found: re.Match[str], launch: Launch) -> LlcudaError:
        return ModelFormatError(launch.model, found.expand(reason), hint=hint)

    return make


def _rule(pattern: str, make: Callable[[re.Match[str], Launch], LlcudaError]) -> _Rule:
    return _Rule(re.compile(pattern, re.MULTILINE), make)


_RULES = (
    _rule(r"^llcuda-guard: cannot run .*: (?P<reason>[^:\n]+)$", _cannot_run),
    _rule(r"^llcuda-guard: (.+)$", _guard_failed),
    _rule(r"error while loading shared libraries: (\S+): (.+)$", _library_missing),
    _rule(r"symbol lookup error: (\S+): (.+)$", _library_missing),
    _rule(r"no backends are loaded", _no_backend),
    _rule(_LINE + r"error: invalid argument: (\S+)", _unknown_option),
    _rule(_LINE + r'error while handling argument "(\S+)": (.+)$', _bad_value),
    _rule(_LINE + r"error: (.+)$", _bad_option),
    _rule(r"couldn't bind HTTP server socket, hostname: (.*), port: (\d+)", _port_taken),
    _rule(
        r"llcuda: (?P<library>\S+) is needed for this model on this GPU and (?P<reason>was not found \(.*\))\. "
        r"Install it: (?P<command>.+)$",
        make_library_missing,
    ),
    _rule(
        r"llcuda: this (?P<library>\S+) (?P<reason>has no \w+)\. Install another: (?P<command>.+)$",
        make_library_missing,
    ),
    _rule(r"CUDA error: (.+)$", _cuda_failed),
    _rule(r"(NVRM: Xid .+|GPU has fallen off the bus.*|GPU is lost.*)$", _cuda_failed),
    _rule(r"allocating (\d+\.\d+) MiB on device (\d+): cudaMalloc failed: out of memory", make_gpu_out_of_memory),
    _rule(
        r"(?i)((?:[\w ]*out of memory|std::bad_alloc|insufficient memory|cannot allocate memory"
        r"|(?:failed|unable) to allocate).*)$",
        _no_memory,
    ),
    _rule(r"failed to open GGUF file '(.+)' \((.+)\)$", _file_missing),
    _rule(r"llama_adapter_lora_init: failed to open '(.+)': (.+)$", _file_missing),
    _rule(r"failed to read magic", _format("it is empty or not a file that can be read")),
    _rule(
        r"invalid magic characters: '(.*)', expected 'GGUF'",
        _format(r"not a GGUF file: it begins with '\1'", "Give a file in GGUF format."),
    ),
    _rule(r"this GGUF file is version (\d+)", _format(r"GGUF version \1 is unknown", _UPDATE)),
    _rule(r"string length \d+ exceeds remaining file size", _format("the file ends inside its header")),
    _rule(
        r"failed to read (?:key-value pairs|header|tensor info|tensor data|the number of \w+)",
        _format("its header is damaged or cut off"),
    ),
    _rule(r"tensor '(.+)' data is not within the file bounds", _format(r"the file ends before its tensor \1")),
    _rule(
        r"unknown model architecture: '(.+)'",
        _format(
            r"its architecture '\1' is unknown to the llama.cpp in this package",
            "Update llcuda (pip install -U llcuda), or choose another model: `llcuda models list`.",
        ),
    ),
    _rule(
        r"error loading model vocabulary: (.+)$",
        _format(r"it has no tokenizer that can be used (\1)", "Choose a GGUF file of a complete language model."),
    ),
    _rule(r"error loading model: (.+)$", _format(r"\1")),
)  # fmt: skip
