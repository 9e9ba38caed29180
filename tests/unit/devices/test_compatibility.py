"""The three questions that notebooks ask."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llcuda import devices as package
from llcuda import native
from llcuda.devices import Devices, Gpu, Situation, compatibility
from llcuda.native import Backend
from tests.standins.fake_machine import build_machine

if TYPE_CHECKING:
    from collections.abc import Callable

T4 = Gpu(0, "Tesla T4", "GPU-1", "7.5", 15360, 15260)
FOUND = Devices((T4,), (), "580.82.07", "13.0", "nvml", Situation.OK, "1 NVIDIA GPU can be used.")
NONE = Devices((), (), None, None, "none", Situation.NO_NVIDIA, "This machine has no NVIDIA GPU.")
CUDA12 = Backend(
    name="cuda12",
    library=Path("/binaries/cuda12/libggml-cuda.so"),
    toolkit="12.9.86",
    architectures=("sm_75",),
    driver_floor="550.54.14",
    compression="size",
    flash_attention=True,
    cuda_graphs=True,
    cublas="libcublas.so.12",
)


@pytest.fixture
def see(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def see(devices: Devices, *backends: Backend) -> None:
        monkeypatch.setattr(compatibility, "find_devices", lambda **_: devices)
        monkeypatch.setattr(native, "find_backends", lambda: backends)

    return see


def test_a_gpu_that_fits_is_compatible(see: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab_20261101")
    see(FOUND, CUDA12)
    assert package.check_gpu_compatibility() == {
        "platform": "colab",
        "gpu_name": "Tesla T4",
        "compute_capability": 7.5,
        "compatible": True,
        "reason": "Using cuda12 on Tesla T4 (compute capability 7.5).",
        "backend": "cuda12",
        "remedy": "",
    }
    assert package.check_cuda_available()


def test_a_gpu_that_does_not_fit_is_named_with_the_reason(see: Callable[..., None]) -> None:
    see(replace(FOUND, driver="470.1"), CUDA12)
    answer = package.check_gpu_compatibility()
    assert (answer["gpu_name"], answer["compute_capability"], answer["compatible"]) == ("Tesla T4", 7.5, False)
    assert "older than 550.54.14" in answer["reason"]
    assert not package.check_cuda_available()


def test_a_hidden_gpu_is_named_too(see: Callable[..., None]) -> None:
    see(replace(FOUND, gpus=(), hidden=(T4,), situation=Situation.HIDDEN, detail="All are hidden."), CUDA12)
    answer = package.check_gpu_compatibility()
    assert (answer["gpu_name"], answer["compatible"]) == ("Tesla T4", False)
    assert package.get_cuda_device_info() is None


def test_no_gpu_is_an_answer(see: Callable[..., None]) -> None:
    see(NONE, CUDA12)
    answer = package.check_gpu_compatibility()
    assert (answer["gpu_name"], answer["compute_capability"], answer["compatible"]) == (None, None, False)
    assert answer["reason"] == "Using the CPU. This machine has no NVIDIA GPU."
    assert not package.check_cuda_available()
    assert package.get_cuda_device_info() is None


def test_the_gpus_are_described_with_their_driver(see: Callable[..., None]) -> None:
    see(FOUND)
    assert package.get_cuda_device_info() == {
        "driver_version": "580.82.07",
        "cuda_version": "13.0",
        "gpus": [
            {
                "index": 0,
                "name": "Tesla T4",
                "uuid": "GPU-1",
                "memory_total_mib": 15360,
                "memory_free_mib": 15260,
                "mig_profile": None,
                "compute_capability": "7.5",
            }
        ],
    }


@pytest.mark.parametrize(
    ("files", "environ", "platform"),
    [
        ({}, {}, "linux"),
        ({"/.dockerenv": ""}, {}, "docker"),
        ({"/.dockerenv": ""}, {"COLAB_GPU": "1"}, "colab"),
        ({"/.dockerenv": ""}, {"KAGGLE_URL_BASE": "x"}, "kaggle"),
        ({"/.dockerenv": "", "/dev/dxg": ""}, {}, "wsl2"),
        ({"/proc/sys/kernel/osrelease": "6.6.87.2-microsoft-standard-WSL2"}, {}, "wsl2"),
        ({"/run/.containerenv": ""}, {}, "podman"),
        ({}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "kubernetes"),
        ({}, {"container": "lxc"}, "container"),
        ({"/proc/1/cgroup": "0::/kubepods/pod1"}, {}, "container"),
        ({"/etc/nv_tegra_release": ""}, {}, "jetson"),
    ],
)
def test_the_platform_is_where_this_runs(
    files: dict[str, str], environ: dict[str, str], *, platform: str, tmp_path: Path
) -> None:
    assert build_machine(tmp_path, files=files, environ=environ).platform() == platform
