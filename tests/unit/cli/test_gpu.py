"""`llcuda gpu status` and `llcuda doctor`: what they show of GPUs, with and without one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from llcuda import devices as package
from llcuda import native
from llcuda.cli import doctor, gpu
from llcuda.devices import Devices, Gpu, Situation
from llcuda.errors import UsageError
from llcuda.native import Backend

CUDA12 = Backend(
    name="cuda12",
    library=Path("/binaries/cuda12/libggml-cuda.so"),
    toolkit="12.9.86",
    architectures=("sm_75", "sm_86"),
    driver_floor="550.54.14",
    compression="size",
    flash_attention=True,
    cuda_graphs=True,
    cublas="libcublas.so.12",
)
T4 = Gpu(0, "Tesla T4", "GPU-1", "7.5", 15360, 15260)
P100 = Gpu(1, "Tesla P100-PCIE-16GB", "GPU-2", "6.0", 16384, None)
SPARE = Gpu(2, "Tesla T4", "GPU-3", "7.5", 0, None)
FOUND = Devices((T4, P100), (SPARE,), "550.120", "12.4", "nvml", Situation.OK, "2 NVIDIA GPUs can be used.")
NONE = Devices((), (), None, None, "none", Situation.NO_NVIDIA, "This machine has no NVIDIA GPU.")
MISMATCH = Devices((), (), "550.120", None, "nvml", Situation.DRIVER_MISMATCH, "They do not match.", "Reboot.")
P100_LEFT_OUT = (
    "Using cuda12 on Tesla T4 (compute capability 7.5). "
    "Left out: Tesla P100-PCIE-16GB (compute capability 6.0), which it was not built for."
)
OLD = Devices((T4,), (), "535.183.01", "12.2", "nvml", Situation.OK, "1 NVIDIA GPU can be used.")


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    answers: dict[str, Any] = {"devices": NONE, "backends": (CUDA12,)}
    monkeypatch.setattr(package, "find_devices", lambda *, refresh: answers["devices"] if refresh else None)
    monkeypatch.setattr(native, "find_backends", lambda: answers["backends"])
    return answers


def status(*, device: str = "auto", as_json: bool = False) -> int:
    return gpu.run_status(argparse.Namespace(device=device, json=as_json))


def test_the_table_says_what_is_used_of_each_gpu(
    found: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    found["devices"] = FOUND
    assert status() == 0
    assert capsys.readouterr().out.splitlines() == [
        "GPU  name                  compute  memory     free       use       UUID",
        "0    Tesla T4              7.5      15360 MiB  15260 MiB  used      GPU-1",
        "1    Tesla P100-PCIE-16GB  6.0      16384 MiB  -          left out  GPU-2",
        "2    Tesla T4              7.5      -          -          hidden    GPU-3",
        "",
        "driver:    550.120, for CUDA up to 12.4",
        "backends:  cuda12 (CUDA 12.9.86, driver 550.54.14 or newer)",
        "situation: 2 NVIDIA GPUs can be used.",
        f"choice:    {P100_LEFT_OUT}",
    ]


def test_no_gpu_is_a_status_too(found: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    found["backends"] = ()
    assert status() == 0
    assert capsys.readouterr().out.splitlines() == [
        "driver:    none",
        "backends:  none in this installation",
        "situation: This machine has no NVIDIA GPU.",
        "choice:    Using the CPU. This machine has no NVIDIA GPU.",
    ]


def test_a_remedy_is_shown(found: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    found["devices"] = MISMATCH
    status()
    assert capsys.readouterr().out.splitlines()[-1] == "try:       Reboot."


def test_the_status_is_a_json_document(found: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    found["devices"] = FOUND
    assert status(device="cuda:0", as_json=True) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["devices"]["situation"] == "ok"
    assert shown["devices"]["gpus"][0]["capability"] == "7.5"
    assert shown["backends"][0]["library"] == "/binaries/cuda12/libggml-cuda.so"
    assert shown["choice"] == {
        "code": "ok",
        "backend": "cuda12",
        "gpus": ["GPU-1"],
        "sentence": "Using cuda12 on Tesla T4 (compute capability 7.5).",
        "remedy": "",
    }


@pytest.mark.usefixtures("found")
def test_a_device_that_is_none_is_a_usage_error() -> None:
    with pytest.raises(UsageError):
        status(device="gpu")


def test_the_command_has_its_own_help() -> None:
    parser = argparse.ArgumentParser()
    gpu.add_parser(parser.add_subparsers())
    arguments = parser.parse_args(["gpu", "status", "--json"])
    assert (arguments.run, arguments.device, arguments.json) == (gpu.run_status, "auto", True)


@pytest.mark.parametrize(
    ("devices", "ok"), [(NONE, True), (FOUND, True), (MISMATCH, False), (OLD, False)], ids=["none", "ok", "bad", "old"]
)
def test_the_doctor_finds_broken_what_should_work_and_does_not(
    devices: Devices, ok: bool, *, found: dict[str, Any]  # noqa: FBT001 - a case of the table
) -> None:
    found["devices"] = devices
    findings = list(doctor._examine_device("device"))
    assert [finding.ok for finding in findings[:-1]] == [True] * (len(findings) - 1)
    assert (findings[-1].check, findings[-1].ok) == ("device", ok)
    assert findings[-1].found.startswith("Using ")
    assert bool(findings[-1].remedy) == (not ok)


def test_the_doctor_names_driver_gpus_and_backends(found: dict[str, Any]) -> None:
    found["devices"] = FOUND
    assert [(finding.check, finding.found) for finding in doctor._examine_device("device")][:-1] == [
        ("NVIDIA driver", "550.120, for CUDA up to 12.4"),
        ("GPU 0", "Tesla T4, compute capability 7.5, 15360 MiB"),
        ("GPU 1", "Tesla P100-PCIE-16GB, compute capability 6.0, 16384 MiB"),
        ("GPU 2", "Tesla T4, compute capability 7.5, hidden"),
        ("CUDA backends", "cuda12 (CUDA 12.9.86, driver 550.54.14 or newer)"),
    ]
