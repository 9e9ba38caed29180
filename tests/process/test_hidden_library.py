"""A child that must not find a library does not find it, whoever else has it: what tests/gpu hides cuBLAS with."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.gpu.cublas import can_open, hide_library

SYSTEM_LIBRARY = "libanl.so.1"  # glibc's, and used by nobody


def test_a_library_of_the_system_is_hidden(tmp_path: Path) -> None:
    assert can_open(SYSTEM_LIBRARY, os.environ)
    hidden = hide_library(SYSTEM_LIBRARY, os.environ, folder=tmp_path / "hidden")
    assert not can_open(SYSTEM_LIBRARY, hidden)


def test_a_library_of_a_folder_is_hidden_and_the_other_folders_stay(tmp_path: Path) -> None:
    (place,) = {path.resolve() for path in Path("/lib").glob(f"**/{SYSTEM_LIBRARY}")}
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    shutil.copy(place, tmp_path / "with" / "libllcuda-test.so.1")
    environment = {**os.environ, "LD_LIBRARY_PATH": f"{tmp_path}/without:{tmp_path}/with"}
    assert can_open("libllcuda-test.so.1", environment)
    hidden = hide_library("libllcuda-test.so.1", environment, folder=tmp_path / "hidden")
    assert not can_open("libllcuda-test.so.1", hidden)
    assert hidden["LD_LIBRARY_PATH"] == f"{tmp_path}/without"
    assert not (tmp_path / "hidden").exists()
