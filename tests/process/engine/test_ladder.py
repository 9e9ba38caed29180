"""Running out of memory for real: of a process that may have no more, and of the GPUs of tests/standins/fake_gpu.c."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING

import pytest

import llcuda
from llcuda.engine import placement as placements
from llcuda.errors import OutOfMemoryError, UsageError
from tests.made_models.synthetic_model import SHAPES, write_model
from tests.standins.fake_t4 import BACKEND, T4, devices

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llcuda.engine import DeviceReport

BATCH = "prompts are computed 128 tokens at once instead of 512"
CACHE = "the KV cache is q8_0 instead of f16"
HALF, QUARTER = "2 of 4 layers are on the GPU", "1 of 4 layers are on the GPU"
ON_CPU = "the model is on the CPU"
GIB = 1 << 30


@pytest.fixture(scope="module")
def long_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that was trained, it says, on a million tokens: 1 GiB of KV cache."""
    shape = dataclasses.replace(SHAPES["small"], context=1 << 20)
    path = tmp_path_factory.mktemp("models") / "long.gguf"
    write_model(path, shape, quantisation="F16")
    return path


@pytest.fixture
def limit(tmp_path: Path, binaries: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Give llama-server no more than so much address space, in GiB."""

    def set_limit(gib: float) -> None:
        script = tmp_path / "llama-server"
        kib = int(gib * GIB) // 1024
        script.write_text(f'#!/bin/sh\nulimit -v {kib}\nexec "{binaries}/llama-server" "$@"\n')
        script.chmod(0o755)
        monkeypatch.setenv("LLAMA_SERVER_PATH", str(script))
        monkeypatch.setenv("LD_LIBRARY_PATH", str(binaries))

    return set_limit


def load(model: Path | str, **options: object) -> DeviceReport:
    with llcuda.InferenceEngine() as engine:
        engine.load_model(model, n_parallel=1, threads=1, **options)  # type: ignore[arg-type]  # by name
        assert engine.infer("What is 2+2?", max_tokens=2, raw=True).tokens_generated
        assert engine.device_report is not None
        return engine.device_report


@pytest.mark.parametrize(
    ("gib", "steps"),
    [
        (8.0, ()),
        (2.1, (BATCH,)),
        (1.3, (BATCH, CACHE)),
        (0.9, (BATCH, CACHE, "the context has 4096 tokens instead of 1048576")),
    ],
)
def test_a_process_that_may_have_no_more_does_without_step_by_step(
    limit: Callable[[float], None], long_model: Path, *, gib: float, steps: tuple[str, ...]
) -> None:
    limit(gib)
    assert load(long_model).steps == steps


def test_a_context_that_was_asked_for_is_kept_and_all_that_was_tried_is_told(
    limit: Callable[[float], None], long_model: Path
) -> None:
    limit(0.7)
    with pytest.raises(OutOfMemoryError) as caught:
        load(long_model, ctx_size=1 << 20)
    assert f"Tried without success: {BATCH}; {CACHE}. " in caught.value.hint
    assert caught.value.log_tail


def test_fallback_error_takes_no_step(
    limit: Callable[[float], None], long_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limit(1.9)
    with pytest.raises(OutOfMemoryError) as caught:
        load(long_model, fallback="error")
    assert "Tried" not in caught.value.hint
    assert not [record for record in caplog.records if "Trying again" in record.getMessage()]


def test_an_unknown_fallback_is_a_usage_error_before_the_model_is_looked_for() -> None:
    with pytest.raises(UsageError, match="fallback='cpu' is unknown"):
        load("/nonesuch.gguf", fallback="cpu")


@pytest.fixture(scope="module")
def backend(compiled: Path) -> Path:
    return compiled / "fake" / "libggml-cuda.so"


@pytest.fixture
def gpu(backend: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Give the engine one GPU with so many MiB."""
    monkeypatch.setattr(placements, "find_devices", lambda **_: devices(T4))
    monkeypatch.setattr(placements, "find_backends", lambda: (dataclasses.replace(BACKEND, library=backend),))
    return lambda mib: monkeypatch.setenv("GGML_FAKE_GPU", str(mib))


@pytest.mark.parametrize(
    ("mib", "steps", "offload"),
    [
        (40, (), "full"),
        (20, (BATCH,), "full"),
        (14, (BATCH, CACHE), "full"),
        (8, (BATCH, CACHE, HALF), "partial"),
        (3, (BATCH, CACHE, HALF, QUARTER), "partial"),
        (0, (ON_CPU,), "cpu"),
    ],
)
def test_a_gpu_that_is_too_small_holds_less_step_by_step(
    gpu: Callable[[int], None], *, mib: int, steps: tuple[str, ...], offload: str
) -> None:
    gpu(mib)
    report = load("demo", gpu_layers=99, ctx_size=8192)
    assert (report.steps, report.offload) == (steps, offload)
    assert all(f"Out of memory, so {step}." in str(report) for step in steps)


def test_the_next_load_begins_at_the_top_again(gpu: Callable[[int], None]) -> None:
    with llcuda.InferenceEngine() as engine:
        for mib, steps in ((14, (BATCH, CACHE)), (40, ())):
            gpu(mib)
            engine.load_model("demo", gpu_layers=99, ctx_size=8192)
            assert engine.device_report is not None
            assert engine.device_report.steps == steps


def test_where_the_gpu_is_required_the_cpu_is_no_step_and_each_step_is_logged(
    gpu: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    gpu(0)
    with pytest.raises(OutOfMemoryError, match="CUDA0") as caught:
        load("demo", gpu_layers=99, ctx_size=8192, device="cuda")
    assert caught.value.hint.startswith(f"Tried without success: {BATCH}; {CACHE}; {HALF}; {QUARTER}. ")
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [line.rpartition("Trying again: ")[2] for line in said] == [f"{s}." for s in (BATCH, CACHE, HALF, QUARTER)]
