"""What is said about the GPUs of a machine that has some."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

import llcuda
from llcuda.devices import find_devices

if TYPE_CHECKING:
    from llcuda.devices import Gpu

pytestmark = pytest.mark.gpu


def ask_nvidia_smi(fields: str) -> list[list[str]]:
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return [[cell.strip() for cell in line.split(",")] for line in answer.splitlines()]


def test_nvml_and_nvidia_smi_agree_on_every_whole_gpu() -> None:
    devices = find_devices(refresh=True)
    found = {
        gpu.uuid: [str(gpu.index), gpu.name, gpu.capability, str(gpu.memory_total_mib), devices.driver]
        for gpu in (*devices.gpus, *devices.hidden)
        if gpu.mig_profile is None
    }
    rows = ask_nvidia_smi("uuid,index,name,compute_cap,memory.total,driver_version,mig.mode.current")
    assert devices.source == "nvml"
    assert found == {uuid: facts for uuid, *facts, mig in rows if mig != "Enabled"}


def test_the_other_way_of_asking_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    first = find_devices(refresh=True)
    monkeypatch.setattr("llcuda.devices.detection._ask_nvml", lambda _library, _timeout: _no_nvml())
    second = find_devices(refresh=True)
    assert second.source == "nvidia-smi"
    assert [strip_free(gpu) for gpu in second.gpus] == [strip_free(gpu) for gpu in first.gpus]
    assert (second.driver, second.cuda) == (first.driver, first.cuda)


def _no_nvml() -> object:
    from llcuda.devices.inventory import Failure, Situation  # noqa: PLC0415 - inside the package

    return Failure(Situation.UNKNOWN, "hidden by a test")


def strip_free(gpu: Gpu) -> tuple[object, ...]:
    return gpu.index, gpu.name, gpu.uuid, gpu.capability, gpu.memory_total_mib, gpu.mig_profile


def test_the_gpu_is_compatible_and_named() -> None:
    gpu = find_devices().gpus[0]
    answer = llcuda.check_gpu_compatibility()
    assert answer["compatible"], answer
    assert answer["gpu_name"] == gpu.name
    assert str(answer["compute_capability"]) == gpu.capability
    assert answer["reason"]
    assert not answer["remedy"]


def test_cuda_is_available_and_described() -> None:
    assert llcuda.check_cuda_available()
    info = llcuda.get_cuda_device_info()
    assert info is not None
    assert [gpu["uuid"] for gpu in info["gpus"]] == [gpu.uuid for gpu in find_devices().gpus]
    assert all(gpu["memory_total_mib"] > 0 for gpu in info["gpus"])
