"""The stand-in for cuBLAS in a CUDA backend: it opens the library when it is called, and says when there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.places import ROOT
from tools.binaries.elf import read_elf

if TYPE_CHECKING:
    from pathlib import Path

DATA = ROOT / "tests" / "data" / "cublas"
FLAGS = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror", "-fPIC", "-shared"]
CALL = "import ctypes, sys; sys.exit(ctypes.CDLL(sys.argv[1]).run())"
EXPECTED = """\
create
mode 3
status 7: seven
workspace 4194304
gemm 1 2 3 4 5 6 7 1099511627776 8 9 2199023255552 10 11 4398046511104 12 13 14
destroy
"""


def compile_library(*arguments: str | Path) -> None:
    subprocess.run(["gcc", *FLAGS, *map(str, arguments)], check=True, timeout=60)


def make_backend(folder: Path, *, major: int, next_major: int) -> Path:
    """Link the stand-in into a library that calls it, hidden, as a CUDA backend does."""
    library = folder / "libbackend.so"
    sources = [ROOT / "native" / "cublas" / "cublas.c", DATA / "caller.c"]
    macros = [f"-DLLCUDA_CUBLAS_MAJOR={major}", f"-DLLCUDA_CUBLAS_NEXT={next_major}"]
    compile_library(*macros, "-Wl,--exclude-libs,ALL", "-Wl,-rpath,$ORIGIN/cublas", *sources, "-o", library, "-ldl")
    return library


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_backend(tmp_path_factory.mktemp("backend"), major=12, next_major=13)


def call(library: Path, *, library_path: Path | str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CALL, str(library)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "LD_LIBRARY_PATH": str(library_path)},
    )


def test_a_backend_needs_no_cublas_to_be_loaded(backend: Path) -> None:
    assert not [name for name in read_elf(backend).needed if "cublas" in name]


def test_every_argument_reaches_the_real_library_and_every_result_comes_back(backend: Path, tmp_path: Path) -> None:
    compile_library(DATA / "fake_cublas.c", "-o", tmp_path / "libcublas.so.12")
    done = call(backend, library_path=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == EXPECTED


def test_the_library_is_found_where_the_backends_own_path_says(tmp_path: Path) -> None:
    library = make_backend(tmp_path, major=12, next_major=13)
    (tmp_path / "cublas").mkdir()
    compile_library(DATA / "fake_cublas.c", "-o", tmp_path / "cublas" / "libcublas.so.12")
    assert call(library).stdout == EXPECTED


@pytest.mark.parametrize(
    ("major", "remedy"), [(12, "pip install nvidia-cublas-cu12"), (13, "pip install 'nvidia-cublas>=13,<14'")]
)
def test_a_missing_library_is_named_with_what_to_install(tmp_path: Path, major: int, remedy: str) -> None:
    done = call(make_backend(tmp_path, major=major, next_major=major + 1), library_path=tmp_path)
    assert done.returncode == 1
    assert done.stdout == f"status 1: libcublas.so.{major} was not found\n"
    said = f"llcuda: libcublas.so.{major} is needed for this model on this GPU and was not found ("
    assert done.stderr.startswith(said)
    assert done.stderr.endswith(f"). Install it: {remedy}\n")


def test_a_library_without_one_of_the_functions_is_refused_with_its_name(backend: Path, tmp_path: Path) -> None:
    compile_library("-DWITHOUT_STRIDED", DATA / "fake_cublas.c", "-o", tmp_path / "libcublas.so.12")
    done = call(backend, library_path=tmp_path)
    assert done.returncode == 1
    assert "libcublas.so.12 has no cublasGemmStridedBatchedEx. Install another" in done.stderr


def test_a_file_that_is_no_library_is_refused_with_the_loaders_words(backend: Path, tmp_path: Path) -> None:
    (tmp_path / "libcublas.so.12").write_text("not a library")
    done = call(backend, library_path=tmp_path)
    assert "libcublas.so.12 is needed" in done.stderr
    assert "file too short" in done.stderr or "invalid ELF header" in done.stderr
