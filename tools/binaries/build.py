"""Build the binaries outside of a wheel, with cmake and ninja."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from tools.binaries.errors import PreparationError
from tools.binaries.lock import ROOT

__all__ = ["PROFILES", "WEB_UI", "CudaBuild", "build"]

PROFILES = ("native", "all", "none")
WEB_UI = ("auto", "on", "off")


@dataclass(frozen=True)
class CudaBuild:
    """Which CUDA backend to build: the toolkit's folder, the GPUs, and how many of nvcc at once."""

    toolkit: Path
    architectures: str = "native"
    jobs: int | None = None

    def options(self) -> list[str]:
        jobs = [f"-DLLCUDA_CUDA_JOBS={self.jobs}"] if self.jobs else []
        toolkit = f"-DCUDAToolkit_ROOT={self.toolkit.resolve()}"
        return ["-DLLCUDA_CUDA=on", toolkit, f"-DLLCUDA_CUDA_ARCHITECTURES={self.architectures}", *jobs]


def build(
    profile: str,
    *,
    cuda: CudaBuild | None = None,
    jobs: int | None = None,
    build_dir: Path | None = None,
    web_ui: str = "auto",
) -> Path:
    """Configure, build and install; return the folder that the binaries and BUILD.json were installed into.

    Without `cuda` no CUDA backend is built, even where there is a GPU: what is built is what was asked for.
    """
    folder = build_dir or ROOT / "build" / profile
    installed = folder / "install"
    cmake = find_tool("cmake")
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={find_tool('ninja')}"]
    options = [*(cuda.options() if cuda else ["-DLLCUDA_CUDA=off"]), f"-DLLCUDA_WEB_UI={web_ui}"]
    run([cmake, "-S", str(ROOT), "-B", str(folder), *generator, f"-DLLCUDA_CPU={profile}", *options])
    run([cmake, "--build", str(folder), "--parallel", *([str(jobs)] if jobs else [])])
    shutil.rmtree(installed, ignore_errors=True)
    run([cmake, "--install", str(folder), "--strip", "--component", "llcuda", "--prefix", str(installed)])
    return installed


def find_tool(name: str) -> str:
    beside_python = Path(sysconfig.get_path("scripts")) / name
    found = str(beside_python) if beside_python.exists() else shutil.which(name)
    if found is None:
        raise PreparationError(f"no {name} here: pip install 'cmake>=3.31.8' ninja")
    return found


def run(command: list[str]) -> None:
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise PreparationError(f"failed with {done.returncode}: {' '.join(command)}")
