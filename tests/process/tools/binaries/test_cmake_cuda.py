"""What the build says about a CUDA backend that it cannot build, and that it builds none that nobody asked for."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.places import ROOT

SCRIPTS = Path(sysconfig.get_path("scripts"))


@pytest.fixture
def no_gpu(tmp_path: Path) -> dict[str, str]:
    """An environment whose nvidia-smi names no GPU, on whatever machine this runs."""
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\nexit 9\n")
    smi.chmod(0o755)
    return {"PATH": f"{smi.parent}:{SCRIPTS}:/usr/bin:/bin"}


def configure(folder: Path, environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """Configure as far as the CUDA backend is decided on; the toolkit's folder is given, so no other is looked for."""
    command = [str(SCRIPTS / "cmake"), "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", "-DLLCUDA_CPU=none"]
    command += [f"-DCMAKE_MAKE_PROGRAM={SCRIPTS / 'ninja'}", "-DCUDAToolkit_ROOT=/nonesuch", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, env=environment)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-DLLCUDA_CUDA=on"], "no CUDA toolkit was found; name its folder: -DCUDAToolkit_ROOT=FOLDER"),
        (["-DLLCUDA_CUDA=yes"], "LLCUDA_CUDA is 'yes'; it must be 'auto', 'on' or 'off'"),
        (["-DLLCUDA_NCCL=auto"], "LLCUDA_NCCL is 'auto'; it must be 'on' or 'off'"),
        (["-DLLCUDA_NCCL=on", "-DNCCL_INCLUDE_DIR="], "name the folder of include/ and lib/: -DNCCL_ROOT"),
    ],
)
def test_a_backend_that_cannot_be_built_is_an_error_with_the_remedy(
    tmp_path: Path, no_gpu: dict[str, str], *, options: list[str], said: str
) -> None:
    done = configure(tmp_path / "build", no_gpu, *options)
    assert done.returncode == 1
    assert said in " ".join(done.stderr.split())


def test_without_a_toolkit_no_backend_is_built_and_the_build_says_so(tmp_path: Path, no_gpu: dict[str, str]) -> None:
    done = configure(tmp_path / "build", no_gpu)
    assert done.returncode == 0, done.stderr
    assert "-- CUDA backend: not built (no CUDA toolkit was found" in done.stdout


def test_nccl_is_found_in_a_folder_like_that_of_nvidias_wheel(tmp_path: Path, no_gpu: dict[str, str]) -> None:
    for name in ("include/nccl.h", "lib/libnccl.so.2"):
        path = tmp_path / "nvidia" / "nccl" / name
        path.parent.mkdir(parents=True)
        path.touch()
    done = configure(tmp_path / "build", no_gpu, "-DLLCUDA_NCCL=on", f"-DNCCL_ROOT={tmp_path / 'nvidia' / 'nccl'}")
    assert done.returncode == 0, done.stderr
    assert f"-- NCCL: {tmp_path / 'nvidia' / 'nccl' / 'lib' / 'libnccl.so.2'}" in done.stdout
