"""These tests need an NVIDIA GPU: deselected where there is none, and where there is one, nothing is skipped."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import llcuda
from llcuda.devices import Gpu, Situation, find_devices
from tests.gpu.nvml import Nvml
from tests.made_models.synthetic_model import SHAPES, write_model

if TYPE_CHECKING:
    from collections.abc import Iterator

_HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = [item for item in items if _HERE in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.gpu)
    if ours and not has_gpu():
        config.hook.pytest_deselected(items=ours)
        items[:] = [item for item in items if item not in ours]


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """Let one test at a time have the GPU, of those that several processes run."""
    with Path(tempfile.gettempdir(), "llcuda-gpu-tests.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def has_gpu() -> bool:
    """Tell whether there is a GPU, also one that the package does not find: then the tests fail and do not go away."""
    devices = find_devices()
    return bool(devices.gpus) or (devices.situation is not Situation.HIDDEN and "GPU " in list_gpus())


def list_gpus() -> str:
    if not shutil.which("nvidia-smi"):
        return ""
    result = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False)
    return result.stdout if result.returncode == 0 else ""


@pytest.fixture(scope="session")
def gpu() -> Gpu:
    """The GPU that is used where one is to be used."""
    return find_devices(refresh=True).gpus[0]


@pytest.fixture
def nvml(gpu: Gpu) -> Iterator[Nvml]:
    with Nvml(gpu.uuid) as opened:
        yield opened


@pytest.fixture
def engine() -> Iterator[llcuda.InferenceEngine]:
    with llcuda.InferenceEngine() as engine:
        yield engine


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models of random weights: 370 million parameters, in F16 and in Q4_K_M."""
    folder = tmp_path_factory.mktemp("synthetic")
    shape = replace(SHAPES["1b-gqa"], layers=4)
    return {kind: write_model(folder / f"{kind}.gguf", shape, quantisation=kind) for kind in ("F16", "Q4_K_M")}
