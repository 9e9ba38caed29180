#!/usr/bin/env python3
"""Install a wheel where nothing else is, and use it as its first user does: on a machine without a GPU.

It runs in a bare container and on a laptop alike: a new environment in a temporary folder, a process environment of
four variables, and what the wheel needs from a folder or the package index. It needs Python's standard library alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

__all__ = ["main"]

DEVICE_ERROR = 4
TIMEOUT = 300
BACKEND = "GGML_BACKEND_PATH"
ASK = ("infer", "-m", "demo", "-p", "What is 2+2?", "--temperature", "0")
FIND_BINARIES = "import llcuda.native; print(llcuda.native.binaries_dir())"
REPORT = """
import json, llcuda
with llcuda.InferenceEngine() as engine:
    engine.load_model("demo", silent=True)
    report = engine.device_report
    print(json.dumps({"device": report.device, "reason": report.reason}))
"""


class TryError(Exception):
    """What a user of the wheel would have met."""


class Installed:
    """An environment with the wheel in it, and the few variables that its programs are given."""

    def __init__(self, folder: Path, *, driver: Path | None) -> None:
        self.folder = folder
        self.python = folder / "venv" / "bin" / "python"
        self.variables = {"HOME": str(folder), "LANG": "C.UTF-8", "LLCUDA_OFFLINE": "1", "PATH": "/usr/bin:/bin"}
        if driver:
            self.variables["LD_LIBRARY_PATH"] = str(driver)

    def install(self, wheel: Path, *, packages: Path | None) -> None:
        venv.create(self.folder / "venv", with_pip=True)
        source = ["--no-index", "--find-links", str(packages)] if packages else []
        settings = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        self.run("-m", "pip", "install", "--quiet", "--disable-pip-version-check", *source, str(wheel), env=settings)

    def run(self, *arguments: str, status: int = 0, env: dict[str, str] | None = None) -> tuple[str, str]:
        """Run this environment's Python, or a program by its path, and return what it wrote to each of its streams."""
        command = [*([] if arguments[0].startswith("/") else [str(self.python)]), *arguments]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            env=self.variables | (env or {}),
            timeout=TIMEOUT,
        )
        if done.returncode != status:
            raise TryError(f"{' '.join(command)}: exit {done.returncode}, not {status}\n{done.stdout}{done.stderr}")
        return done.stdout, done.stderr

    def llcuda(self, *arguments: str, status: int = 0) -> tuple[str, str]:
        return self.run(str(self.python.with_name("llcuda")), *arguments, status=status)


def main() -> int:
    """Try the wheel; print one line for each thing that was tried, and return 1 at the first that fails."""
    options = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="try-wheel-") as folder:
        installed = Installed(Path(folder), driver=options.stub_driver)
        try:
            installed.install(options.wheel, packages=options.packages)
            for check in (check_doctor, check_answer, check_auto, check_cuda_is_refused, check_backends):
                print(f"ok  {check(installed)}", flush=True)
        except TryError as error:
            print(f"FAILED  {error}", file=sys.stderr)
            return 1
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("wheel", type=existing, metavar="WHEEL")
    parser.add_argument("--packages", type=existing, metavar="FOLDER", help="install from here, without a network")
    parser.add_argument("--stub-driver", type=existing, metavar="FOLDER", help="has the libcuda.so.1 of stub_driver.sh")
    return parser.parse_args()


def existing(text: str) -> Path:
    try:
        return Path(text).resolve(strict=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error.strerror}") from error


def expect(truth: object, message: str) -> None:
    if not truth:
        raise TryError(message)


def check_doctor(installed: Installed) -> str:
    output, _ = installed.llcuda("doctor", "--json")
    findings = json.loads(output)
    broken = [finding for finding in findings if not finding["ok"]]
    expect(findings and not broken, f"llcuda doctor: {broken}")
    return f"llcuda doctor finds all of {len(findings)} things well"


def check_answer(installed: Installed) -> str:
    output, _ = installed.llcuda(*ASK)
    expect("4" in output, f"2+2 was answered {output!r}")
    return f"the demo model answers {output.strip()!r}"


def check_auto(installed: Installed) -> str:
    """Without a GPU the processor is used, which the log says in one line, and the report too."""
    report = json.loads(installed.run("-c", REPORT)[0])
    expect(report["device"] == "cpu", f"device='auto' used {report['device']}")
    expect("CPU" in report["reason"], f"the report does not say that the CPU is used: {report['reason']!r}")
    _, log = installed.llcuda(*ASK, "--device", "auto")
    lines = [line for line in log.splitlines() if "CPU" in line]
    expect(len(lines) == 1, f"not one line of the log says that the CPU is used, but {len(lines)}:\n{log}")
    return f"device='auto': {lines[0].strip()}"


def check_cuda_is_refused(installed: Installed) -> str:
    output, log = installed.llcuda(*ASK, "--device", "cuda", status=DEVICE_ERROR)
    expect("try: " in log, f"device='cuda' fails without saying what to try:\n{log}")
    expect(not output, f"device='cuda' was answered all the same: {output!r}")
    return f"device='cuda': {' '.join(log.split())}"


def check_backends(installed: Installed) -> str:
    """Let llama-server load each CUDA backend: it must, where there is a driver's library, and say so where not."""
    binaries = Path(installed.run("-c", FIND_BINARIES)[0].strip())
    backends = sorted(binaries.glob("cuda*/libggml-cuda.so"))
    has_driver = "LD_LIBRARY_PATH" in installed.variables
    for backend in backends:
        log = "".join(installed.run(str(binaries / "llama-server"), "--list-devices", env={BACKEND: str(backend)}))
        refused = [line for line in log.splitlines() if "failed to load" in line]
        if has_driver:
            expect(not refused, f"{backend} does not load with the stub driver:\n{log}")
        else:
            expect(refused and "libcuda.so.1" in refused[0], f"{backend} misses something else than a driver:\n{log}")
    names = ", ".join(backend.parent.name for backend in backends) or "none"
    return f"CUDA backends ({names}) {'load' if has_driver else 'ask for a driver'}"


if __name__ == "__main__":
    sys.exit(main())
