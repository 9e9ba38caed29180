"""A kill at any moment of an install or of a way back leaves an installation that works: what was, or what is new.

``python -m tests.process.installer.test_kill 300`` kills as often, and says what was in use how often, and how often
the kill left a folder that was not finished, which nothing may use and the next install removes.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import llcuda
from llcuda.engine import placement as placements
from llcuda.installer import BinaryInstaller, install
from llcuda.native import binaries_dir, read_build_info
from tests.inputs.bundles import LIBRARY, Draft, write_bundle
from tests.places import ROOT
from tests.process.server.test_offload import compile_backends
from tests.standins.fake_t4 import T4, devices

# With "quick" nothing is proved: the moments are then all on the disk, where a proof would take nearly all of them.
VICTIM = """
import sys
from llcuda.installer import BinaryInstaller, Proof, install
from llcuda.errors import UsageError
from tests.standins.fake_t4 import T4, devices
install.find_devices = lambda **_: devices(T4)
how, *sources = sys.argv[1:]
if how == "quick":
    proof = Proof("cuda", ("Tesla T4",), 4, 1.0, 1.0)
    install.prove = lambda *_, **__: proof
print("go", flush=True)
while True:
    for source in sources:
        BinaryInstaller(source=source).download_binary(force=True)
    for _ in range(len(sources) + 1):
        try:
            BinaryInstaller().rollback()
        except UsageError:
            pass
"""


@dataclass
class Outcome:
    """What was found after each kill."""

    left: Counter[str] = field(default_factory=Counter)
    """How often what was in use: the name of a bundle, or ``nothing``."""
    abandoned: int = 0
    """How often the kill left a folder that was not whole, which nothing used."""


def write_bundles(folder: Path, binaries: Path) -> list[Path]:
    """Write two bundles of the stand-in GPU's backend, which differ by their date."""
    library = (compile_backends(folder / "backends", binaries) / "fake" / LIBRARY).read_bytes()
    tag = read_build_info(binaries).llama_cpp_tag
    build = {"llama_cpp": {"tag": tag, "version": "0.6.0", "commit": tag}}
    return [
        write_bundle(folder / f"{day}", Draft(files={LIBRARY: library}, record={**build, "date": f"2026-01-0{day}"}))
        for day in (1, 2)
    ]


def kill_many(count: int, folder: Path, monkeypatch: pytest.MonkeyPatch, *, binaries: Path, seed: int = 0) -> Outcome:
    """Kill ``count`` installers, each at another moment of its rounds, and check after each what is installed.

    Every second one proves what it installs, on the stand-in for a GPU.
    """
    for module in (install, placements):
        monkeypatch.setattr(module, "find_devices", lambda **_: devices(T4))
    monkeypatch.setenv("GGML_FAKE_GPU", "4096")
    monkeypatch.setenv("LLCUDA_HOME", str(folder / "home"))
    bundles = write_bundles(folder, binaries)
    chance, outcome = random.Random(seed), Outcome()
    for number in range(count):
        how, longest = ("quick", 0.3) if number % 2 else ("proved", 3.0)
        kill_one(how, bundles, delay=chance.uniform(0, longest))
        installer = BinaryInstaller()
        installed = installer.list_installed()
        assert installer.verify() == ()
        assert load() == ("cuda" if installed else "cpu")
        outcome.left[installed[0].name[:15] if installed else "nothing"] += 1
        outcome.abandoned += bool(list_unfinished(installer))
    installer = BinaryInstaller(source=str(bundles[0]))
    installer.download_binary(force=True)
    assert list_unfinished(installer) == []
    return outcome


def list_unfinished(installer: BinaryInstaller) -> list[Path]:
    """Return the folders that a process which was killed had not finished."""
    return list(installer.folder.glob(".install-*"))


def kill_one(how: str, bundles: list[Path], *, delay: float) -> None:
    command = [sys.executable, "-c", VICTIM, how, *map(str, bundles)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"go\n"
        time.sleep(delay)
        assert process.poll() is None
        process.kill()


def load() -> str:
    """Load the demo model, ask it, and return the device that it was on."""
    with llcuda.InferenceEngine() as engine:
        engine.load_model("demo", gpu_layers=99, silent=True)
        assert engine.infer("What is 2+2?", temperature=0).text == "2 + 2 = 4."
        assert engine.device_report is not None
        return engine.device_report.device


def test_a_kill_at_any_moment_leaves_a_working_installation(
    tmp_path: Path, binaries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = kill_many(6, tmp_path, monkeypatch, binaries=binaries)
    assert sum(outcome.left.values()) == 6


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        sys.stdout.write(f"{kill_many(int(sys.argv[1]), Path(name), patch, binaries=binaries_dir(), seed=1)}\n")
