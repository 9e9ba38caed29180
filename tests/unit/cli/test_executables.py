"""The environment that llama.cpp's own tools get when they are passed through."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llcuda import devices, native
from llcuda.cli import executables
from tests.standins.fake_t4 import BACKEND, T4
from tests.standins.fake_t4 import devices as make_devices

if TYPE_CHECKING:
    from llcuda.devices import Devices


@pytest.fixture(autouse=True)
def bundled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GGML_BACKEND_PATH", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(executables, "find_executable", lambda name: Path("/package/binaries") / name)
    monkeypatch.setattr(native, "find_backends", lambda: (BACKEND,))


def have(monkeypatch: pytest.MonkeyPatch, found: Devices) -> None:
    monkeypatch.setattr(devices, "find_devices", lambda: found)


def test_a_tool_gets_the_backend_and_the_gpus_that_an_engine_would(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, make_devices(T4))
    environment = executables._make_environment("llama-bench")
    assert environment["GGML_BACKEND_PATH"] == str(BACKEND.library)
    assert environment["CUDA_VISIBLE_DEVICES"] == T4.uuid
    assert environment["LD_LIBRARY_PATH"].split(":")[:2] == ["/package/binaries", str(BACKEND.library.parent)]


def test_without_a_gpu_a_tool_runs_on_the_cpu_and_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    have(monkeypatch, make_devices())
    environment = executables._make_environment("llama-bench")
    assert "GGML_BACKEND_PATH" not in environment
    assert "CUDA_VISIBLE_DEVICES" not in environment
    assert capsys.readouterr() == ("", "")


def test_a_gpu_that_cannot_be_used_is_named_with_the_remedy_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    have(monkeypatch, make_devices(T4, driver="535.183.01", cuda="12.2"))
    assert "GGML_BACKEND_PATH" not in executables._make_environment("llama-bench")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("llcuda: Using the CPU. The NVIDIA driver 535.183.01 is older")
    assert "Update the NVIDIA driver" in err


def test_a_backend_that_the_user_names_is_left_to_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, make_devices(T4))
    monkeypatch.setenv("GGML_BACKEND_PATH", "/mine/libggml-vulkan.so")
    environment = executables._make_environment("llama-bench")
    assert environment["GGML_BACKEND_PATH"] == "/mine/libggml-vulkan.so"
    assert "CUDA_VISIBLE_DEVICES" not in environment
