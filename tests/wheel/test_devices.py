"""Where a model runs when no GPU can be seen: on the CPU, said aloud, and never where a GPU was asked for."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import llcuda
from llcuda.errors import NoDeviceError, UsageError
from llcuda.native import binaries_dir

LLCUDA = str(Path(sys.executable).parent / "llcuda")


@pytest.fixture(autouse=True)
def no_visible_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide every GPU, so that these hold on a machine that has one too."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.setenv("GPU_DETECTION_CACHE", "off")


def test_auto_takes_the_cpu_and_says_so_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="llcuda"), llcuda.InferenceEngine() as engine:
        engine.load_model("demo")
        report = engine.device_report
        assert "4" in engine.infer("What is 2+2?").text
    (record,) = [record for record in caplog.records if record.name == "llcuda"]
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("Using the CPU. ")
    assert "\n" not in record.getMessage()
    assert report is not None
    assert report.reason in record.getMessage()
    assert engine.device_report is None


def test_a_silent_load_and_one_that_asked_for_the_cpu_warn_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with llcuda.InferenceEngine() as engine:
        engine.load_model("demo", silent=True)
        engine.load_model("demo", device="cpu")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_layers_that_are_asked_for_without_a_gpu_are_reported_where_they_are() -> None:
    with llcuda.InferenceEngine() as engine:
        engine.load_model("demo", gpu_layers=99, silent=True)
        report = engine.device_report
    assert report is not None
    assert (report.device, report.backend, report.offload, report.layers_on_gpu) == ("cpu", None, "cpu", 0)
    (cpu,) = report.devices
    assert cpu.device == "CPU"
    assert min(cpu.weights_bytes, cpu.kv_bytes, cpu.compute_bytes) > 0


@pytest.mark.parametrize("options", [{"device": "cuda"}, {"device": "cuda:0"}, {"require_gpu": True}])
def test_a_gpu_that_is_required_is_an_error_with_the_remedy_and_nothing_is_started(options: dict[str, Any]) -> None:
    engine = llcuda.InferenceEngine()
    with pytest.raises(NoDeviceError) as caught:
        engine.load_model("demo", **options)
    assert caught.value.hint
    assert engine.device_report is None
    assert engine._server.command == ()


def test_on_the_cpu_the_child_can_see_no_gpu_and_loads_no_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("GGML_BACKEND_PATH", "/nonesuch/libggml-cuda.so")
    with llcuda.InferenceEngine() as engine:
        engine.load_model("demo", device="cpu")
        environment = Path(f"/proc/{engine._server.server_pid}/environ").read_bytes().split(b"\0")
    assert b"CUDA_VISIBLE_DEVICES=-1" in environment
    assert not [entry for entry in environment if entry.startswith(b"GGML_BACKEND_PATH=")]


def test_a_llama_server_of_the_users_own_chooses_its_devices_and_the_report_says_what_it_did(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copy = tmp_path / "binaries"
    shutil.copytree(binaries_dir(), copy)
    monkeypatch.setenv("LLAMA_SERVER_PATH", str(copy / "llama-server"))
    with llcuda.InferenceEngine() as engine:
        engine.load_model("demo", silent=True)
        report = engine.device_report
    assert report is not None
    assert (report.device, report.offload, report.backend) == ("cpu", "cpu", None)
    assert "is not the bundled llama-server" in report.reason
    with pytest.raises(NoDeviceError, match="not the bundled llama-server"):
        engine.load_model("demo", device="cuda")


def test_contradictions_are_refused_before_anything_is_started() -> None:
    engine = llcuda.InferenceEngine()
    for options in ({"device": "gpu"}, {"device": "cpu", "require_gpu": True}, {"device": "cuda", "gpu_layers": 0}):
        with pytest.raises(UsageError):
            engine.load_model("demo", **options)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([LLCUDA, *arguments], capture_output=True, text=True, check=False, timeout=120)


def test_the_command_line_says_once_on_stderr_that_it_takes_the_cpu() -> None:
    done = run("infer", "-m", "demo", "-p", "What is 2+2?")
    assert (done.returncode, done.stdout) == (0, "2 + 2 = 4.\n")
    (line,) = done.stderr.splitlines()
    assert "Using the CPU. " in line


@pytest.mark.parametrize("flag", [["--device", "cuda"], ["--require-gpu"]])
def test_the_command_line_fails_with_the_device_errors_code_and_the_remedy(flag: list[str]) -> None:
    done = run("infer", "-m", "demo", "-p", "What is 2+2?", *flag)
    assert (done.returncode, done.stdout) == (NoDeviceError.exit_code, "")
    assert "  try: " in done.stderr


def test_the_command_line_takes_the_fallback_and_no_other_word() -> None:
    done = run("infer", "-m", "demo", "-p", "What is 2+2?", "--fallback", "error", "--device", "cpu")
    assert (done.returncode, done.stdout) == (0, "2 + 2 = 4.\n")
    assert run("infer", "-m", "demo", "-p", "x", "--fallback", "cpu").returncode == UsageError.exit_code


def test_the_json_answer_has_the_device_report() -> None:
    done = run("infer", "-m", "demo", "-p", "What is 2+2?", "--json", "--device", "cpu")
    answer = json.loads(done.stdout)
    assert done.stderr == ""
    assert (answer["device"]["device"], answer["device"]["asked"]) == ("cpu", "cpu")
    assert answer["device"]["devices"][0]["weights_bytes"] > 0
