"""A kill at any moment of an install or of a way back leaves an installation that works."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llcuda.native import read_build_info
from tests import install_kill
from tests.bundles import LIBRARY
from tests.process.test_offload_real import compile_backends

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_a_kill_at_any_moment_leaves_a_working_installation(
    tmp_path: Path, binaries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_kill.put_gpu(monkeypatch, tmp_path / "home")
    library = compile_backends(tmp_path / "backends", binaries) / "fake" / LIBRARY
    tag = read_build_info(binaries).llama_cpp_tag
    bundles = install_kill.write_bundles(tmp_path, library.read_bytes(), tag=tag)
    outcome = install_kill.run(12, bundles)
    assert sum(outcome.left.values()) == 12
