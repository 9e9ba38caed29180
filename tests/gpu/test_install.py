"""From a package for the CPU to a GPU that is proved, and back; and what a model does that finds too little memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import llcuda
from llcuda.devices import choose_backend, find_devices
from llcuda.native import binaries_dir, find_backends
from tests.gpu.hog import leave
from tools.binaries.bundle import pack

if TYPE_CHECKING:
    from llcuda.devices import Gpu

pytestmark = pytest.mark.gpu


@pytest.fixture
def cpu_package(tmp_path: Path) -> Path:
    """Copy the package without its CUDA backends, and return the folder to import it from."""
    for root in map(Path, llcuda.__path__):
        ignored = shutil.ignore_patterns("cuda*", "__pycache__")
        shutil.copytree(root, tmp_path / "cpu" / "llcuda", ignore=ignored, dirs_exist_ok=True)
    return tmp_path / "cpu"


def test_from_the_cpu_to_a_proved_gpu_and_back(tmp_path: Path, cpu_package: Path, gpu: Gpu) -> None:
    backend = choose_backend(find_devices(), find_backends(binaries_dir())).backend
    assert backend is not None
    bundle = pack(backend.library.parent, output=tmp_path / "bundles")
    variables = {"PYTHONPATH": str(cpu_package), "LLCUDA_HOME": str(tmp_path / "home"), "GPU_DETECTION_CACHE": "off"}

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "llcuda", *arguments]
        environment = {**os.environ, **variables}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    def device() -> str:
        answer = json.loads(run("infer", "-m", "demo", "-p", "What is 2+2?", "--temperature", "0", "--json"))
        assert answer["text"] == "2 + 2 = 4."
        return str(answer["device"]["device"])

    assert device() == "cpu"
    proof = json.loads(run("gpu", "install", "--from", str(bundle), "--yes", "--json"))["proof"]
    assert gpu.name in proof["gpus"]
    assert proof["layers_on_gpu"] > 0
    assert device() == "cuda"
    run("gpu", "verify")
    run("gpu", "rollback")
    assert device() == "cpu"


def test_a_model_that_finds_too_little_memory_does_without_step_by_step(
    engine: llcuda.InferenceEngine, models: dict[str, Path]
) -> None:
    """740 MB of weights and the CUDA context do not go into 700 MiB."""
    with leave(700):
        engine.load_model(models["F16"], gpu_layers=99, ctx_size=512, device="auto")
        assert engine.device_report is not None
        assert engine.device_report.steps
        assert engine.infer("1", raw=True, max_tokens=2).tokens_generated
    engine.load_model(models["F16"], gpu_layers=99, ctx_size=512, device="cuda")
    assert engine.device_report is not None
    assert (engine.device_report.steps, engine.device_report.offload) == ((), "full")
