"""What is said about the GPUs of a machine that has some."""

from __future__ import annotations

import subprocess

import pytest

import llcuda
from llcuda.devices import find_devices

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
