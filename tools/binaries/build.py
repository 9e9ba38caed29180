"""Build the binaries outside of a wheel, with cmake and ninja."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

from tools.binaries.errors import PreparationError
from tools.binaries.lock import ROOT

__all__ = ["PROFILES", "build"]

PROFILES = ("native", "all")


def build(profile: str, *, jobs: int | None = None, build_dir: Path | None = None) -> Path:
    """Configure, build and install; return the folder that the binaries and BUILD.json were installed into."""
    folder = build_dir or ROOT / "build" / profile
    installed = folder / "install"
    cmake = find_tool("cmake")
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={find_tool('ninja')}"]
    run([cmake, "-S", str(ROOT), "-B", str(folder), *generator, f"-DLLCUDA_CPU={profile}"])
    run([cmake, "--build", str(folder), "--parallel", *([str(jobs)] if jobs else [])])
    shutil.rmtree(installed, ignore_errors=True)
    run([cmake, "--install", str(folder), "--strip", "--component", "llcuda", "--prefix", str(installed)])
    return installed


def find_tool(name: str) -> str:
    beside_python = Path(sysconfig.get_path("scripts")) / name
    found = str(beside_python) if beside_python.exists() else shutil.which(name)
    if found is None:
        message = f"no {name} here: pip install 'cmake>=3.31.8' ninja"
        raise PreparationError(message)
    return found


def run(command: list[str]) -> None:
    done = subprocess.run(command, check=False)
    if done.returncode:
        message = f"failed with {done.returncode}: {' '.join(command)}"
        raise PreparationError(message)
