"""`llcuda doctor`: what is bundled, what is broken, what to do."""

from __future__ import annotations

import dataclasses
import platform
from typing import TYPE_CHECKING

from llcuda import __version__
from llcuda.cli.arguments import add_command
from llcuda.cli.output import format_table, show
from llcuda.errors import BinaryError, LlcudaError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from llcuda.cli.arguments import Commands

__all__ = ["Finding", "add_parser"]

_QUESTION, _ANSWER = "What is 2+2?", "4"
# A GPU that should work and does not. No GPU, one that is switched off, and one without a driver are nobody's fault.
_BROKEN_GPU = frozenset(
    {"driver-mismatch", "driver-too-old", "gpu-lost", "no-libcuda", "permission-denied", "timeout", "unknown"}
)


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: ``ok``, what was found, and the ``remedy`` if it is not well."""

    check: str
    ok: bool
    found: str
    remedy: str = ""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, run, name="doctor", summary="check what is bundled, and say what to do")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print every finding; the exit code is 3 if something is broken."""
    findings = list(examine())
    rows = [("ok" if finding.ok else "BROKEN", finding.check, finding.found) for finding in findings]
    remedies = [f"\n{finding.check}: {finding.remedy}" for finding in findings if finding.remedy]
    text = "\n".join([format_table(("", "check", "found"), rows), *remedies])
    show([dataclasses.asdict(finding) for finding in findings], text, as_json=arguments.json)
    return 0 if all(finding.ok for finding in findings) else BinaryError.exit_code


def examine() -> Iterator[Finding]:
    """Look at the installation from the outside in: package, build, files, GPUs, then a question to the demo model."""
    python = f"Python {platform.python_version()}"
    yield Finding("llcuda", ok=True, found=f"{__version__} on {python}, {platform.platform()}")
    yield from _attempt("build", _examine_build)
    yield from _attempt("files", _examine_files)
    yield from _attempt("llama-server", _examine_server)
    yield from _attempt("device", _examine_device)
    yield from _attempt("demo model", _examine_answer)


def _attempt(check: str, look: Callable[[str], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from look(check)
    except LlcudaError as error:
        yield Finding(check, ok=False, found=str(error), remedy=error.hint)


def _examine_build(check: str) -> Iterator[Finding]:
    from llcuda.native import binaries_dir, read_build_info  # noqa: PLC0415 - a broken module is a finding too

    build = read_build_info(binaries_dir())
    variants = f"{len(build.cpu_variants)} CPU variants" if build.profile == "all" else "CPU of the building machine"
    patched = f" with {len(build.llama_cpp_patches)} patches" if build.llama_cpp_patches else ""
    yield Finding(check, ok=True, found=f"llama.cpp {build.llama_cpp_tag}{patched}, {build.compiler}, {variants}")


def _examine_files(check: str) -> Iterator[Finding]:
    from llcuda.native import binaries_dir, check_binaries, read_build_info  # noqa: PLC0415

    folders = [binaries_dir(), *(path.parent for path in sorted(binaries_dir().glob("cuda*/BUILD.json")))]
    problems = [problem for folder in folders for problem in check_binaries(folder, digests=True)]
    for problem in problems:
        yield Finding(check, ok=False, found=f"{problem.path}: {problem.what}", remedy=problem.remedy)
    if not problems:
        count = sum(len(read_build_info(folder).files) for folder in folders)
        yield Finding(check, ok=True, found=f"{count} files in {binaries_dir()}, every SHA-256 right")


def _examine_server(check: str) -> Iterator[Finding]:
    from llcuda.native import find_executable  # noqa: PLC0415

    yield Finding(check, ok=True, found=str(find_executable("llama-server")))


def _examine_device(check: str) -> Iterator[Finding]:
    from llcuda.cli.gpu import format_backend  # noqa: PLC0415
    from llcuda.devices import choose_backend, find_devices  # noqa: PLC0415
    from llcuda.native import find_backends  # noqa: PLC0415

    devices = find_devices(refresh=True)
    cuda = f", for CUDA up to {devices.cuda}" if devices.cuda else ""
    yield Finding("NVIDIA driver", ok=True, found=f"{devices.driver or 'none'}{cuda}")
    for gpu in (*devices.gpus, *devices.hidden):
        hidden = "" if gpu in devices.gpus else ", hidden"
        memory = f", {gpu.memory_total_mib} MiB" if gpu.memory_total_mib else ""
        found = f"{gpu.name}, compute capability {gpu.capability or 'unknown'}{memory}{hidden}"
        yield Finding(f"GPU {gpu.index}", ok=True, found=found)
    backends = find_backends()
    bundled = ", ".join(map(format_backend, backends)) or "none in this installation"
    yield Finding("CUDA backends", ok=True, found=bundled)
    choice = choose_backend(devices, backends)
    yield Finding(check, ok=choice.code not in _BROKEN_GPU, found=choice.sentence, remedy=choice.remedy)


def _examine_answer(check: str) -> Iterator[Finding]:
    from llcuda.engine import InferenceEngine  # noqa: PLC0415

    with InferenceEngine() as engine:
        engine.load_model("demo", silent=True)
        result = engine.infer(_QUESTION, temperature=0, max_tokens=32)
    yield Finding(
        check,
        ok=_ANSWER in result.text,
        found=f"{_QUESTION} {result.text} ({result.latency_ms:.0f} ms)",
        remedy="" if _ANSWER in result.text else "The CPU backend computes wrongly here: report this output.",
    )
