"""The built wheel: LLCUDA_TEST_WHEEL names it (nox sets it), else it is the newest in dist/."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from tests.places import ROOT


@pytest.fixture(scope="session")
def wheel() -> Path:
    if named := os.environ.get("LLCUDA_TEST_WHEEL"):
        return Path(named).resolve()
    built = sorted((ROOT / "dist").glob("llcuda-*.whl"), key=lambda path: path.stat().st_mtime)
    if not built:
        pytest.fail("no wheel to test: run `nox -s tests`, or build one: pip wheel . --no-deps -w dist")
    return built[-1]


@pytest.fixture(scope="session")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the wheel's files, their modes as pip would set them."""
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            path = Path(archive.extract(entry, folder))
            path.chmod(0o755 if entry.external_attr >> 16 & 0o100 else 0o644)
    return folder
