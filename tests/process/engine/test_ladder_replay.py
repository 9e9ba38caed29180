"""Every step down, driven by the words of real failures: a llama-server that says them so many times, and then runs."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import llcuda
from llcuda.engine import placement as placements
from llcuda.errors import OutOfMemoryError
from tests.made_models.sparse_model import Sparse, write_sparse_model
from tests.places import DATA
from tests.process.engine.test_ladder import BATCH, CACHE, HALF, ON_CPU, QUARTER
from tests.standins.fake_t4 import BACKEND, T4, devices

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llcuda.engine import DeviceReport

LOGS = DATA / "logs"
CONTEXT = "the context has 4096 tokens instead of 8192"
STEPS = (BATCH, CACHE, CONTEXT, HALF, QUARTER, ON_CPU, BATCH, CACHE, CONTEXT)
FORMS = (
    (LOGS / "cuda" / "written-out-of-memory-while-computing.log").read_text(),
    (LOGS / "offload" / "recorded-out-of-memory-weights.log").read_text(),
    (LOGS / "offload" / "recorded-out-of-memory-compute.log").read_text(),
    (LOGS / "no_memory.log").read_text(),
    "E CUDA error: the resource allocation failed\n",
    "E CUDA error: CUBLAS_STATUS_ALLOC_FAILED\n",
    "E llama_model_load: error loading model: unable to allocate CUDA0 buffer\n",
    "E llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache\n",
    "E llama_init_from_model: failed to initialize the context: failed to allocate compute pp buffers\n",
    "E ggml_gallocr_reserve_n_impl: failed to allocate CUDA0 buffer of size 1073741824\n",
)
"""Each recorded, or written after the format strings of ggml-cuda.cu, llama-kv-cache.cpp and llama-context.cpp."""


@pytest.fixture(scope="module")
def backend(compiled: Path) -> Path:
    return compiled / "fake" / "libggml-cuda.so"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = Sparse(layers=3, width=256, heads=4, kv_heads=4, hidden=512, vocabulary=512, context=8192)
    return write_sparse_model(tmp_path_factory.mktemp("models") / "three.gguf", shape)


@pytest.fixture
def fail(tmp_path: Path, binaries: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let llama-server fail so many times, each with the next of these forms and by this signal or exit status."""

    def set_failures(count: int, *forms: str, ending: str = "exit 1") -> None:
        for number in range(count):
            (tmp_path / f"{number:02}.log").write_text(forms[number % len(forms)])
        script = tmp_path / "llama-server"
        script.write_text(
            f'#!/bin/sh\nfor log in {tmp_path}/*.log; do [ -e "$log" ] || break\n'
            f'cat "$log"; rm "$log"; {ending}\ndone\nexec "{binaries}/llama-server" "$@"\n'
        )
        script.chmod(0o755)
        monkeypatch.setenv("LLAMA_SERVER_PATH", str(script))
        monkeypatch.setenv("LD_LIBRARY_PATH", str(binaries))

    return set_failures


@pytest.fixture
def gpu(backend: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placements, "find_devices", lambda **_: devices(T4))
    monkeypatch.setattr(placements, "find_backends", lambda: (dataclasses.replace(BACKEND, library=backend),))
    monkeypatch.setattr(placements, "_is_bundled", lambda _executable: True)
    monkeypatch.setenv("GGML_FAKE_GPU", "4096")


def load(engine: llcuda.InferenceEngine, model: Path, **options: object) -> DeviceReport:
    engine.load_model(model, threads=1, **options)  # type: ignore[arg-type]  # by name
    assert engine.device_report is not None
    return engine.device_report


def taken(count: int) -> tuple[str, ...]:
    """Return the steps that count after so many: the CPU takes back what was done without on the GPU."""
    steps = STEPS[:count]
    return steps[steps.index(ON_CPU) :] if ON_CPU in steps else steps


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("count", range(len(STEPS) + 1))
def test_each_step_is_reached_reported_and_undone_in_the_next_load(
    fail: Callable[..., None], model: Path, *, count: int
) -> None:
    fail(count, *FORMS)
    with llcuda.InferenceEngine() as engine:
        report = load(engine, model)
        assert report.steps == taken(count)
        assert report.device == ("cpu" if ON_CPU in report.steps else "cuda")
        again = load(engine, model)
        assert (again.steps, again.offload) == ((), "full")
        assert not {"--ubatch-size", "--cache-type-k", "--ctx-size", "--gpu-layers"} & set(engine._server.command)


@pytest.mark.usefixtures("gpu")
def test_after_the_last_step_all_of_them_are_told(fail: Callable[..., None], model: Path) -> None:
    fail(len(STEPS) + 1, *FORMS)
    with llcuda.InferenceEngine() as engine, pytest.raises(OutOfMemoryError) as caught:
        load(engine, model)
    assert caught.value.hint.startswith(f"Tried without success: {'; '.join(taken(len(STEPS)))}. ")


@pytest.mark.parametrize("ending", ["exit 1", "kill -ABRT $$"])
@pytest.mark.parametrize("form", FORMS, ids=range(len(FORMS)))
def test_each_form_of_the_failure_leads_to_the_next_step_and_with_fallback_error_to_none(
    fail: Callable[..., None], model: Path, *, form: str, ending: str
) -> None:
    fail(2, form, ending=ending)
    with llcuda.InferenceEngine() as engine:
        with pytest.raises(OutOfMemoryError):
            load(engine, model, fallback="error")
        assert load(engine, model).steps == (BATCH,)


def test_a_cache_that_cannot_be_quantised_is_no_step(fail: Callable[..., None], tmp_path: Path) -> None:
    narrow = Sparse(layers=3, width=320, heads=4, kv_heads=4, head=80, hidden=512, vocabulary=512, context=8192)
    fail(2, *FORMS)
    with llcuda.InferenceEngine() as engine:
        assert load(engine, write_sparse_model(tmp_path / "narrow.gguf", narrow)).steps == (BATCH, CONTEXT)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("layers", "steps"), [("2", ("1 of 4 layers are on the GPU",)), ("0", ())])
def test_the_layers_of_the_environment_are_those_that_are_halved(
    fail: Callable[..., None], model: Path, monkeypatch: pytest.MonkeyPatch, *, layers: str, steps: tuple[str, ...]
) -> None:
    monkeypatch.setenv("LLAMACPP_N_GPU_LAYERS", layers)
    fail(3 + len(steps), *FORMS)
    with llcuda.InferenceEngine() as engine:
        assert load(engine, model).steps == (BATCH, CACHE, CONTEXT, *steps)


def test_the_environment_chooses_threads_and_shows_the_log(
    fail: Callable[..., None], model: Path, *, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fail(1, *FORMS)
    monkeypatch.setenv("LLAMACPP_N_THREADS", "2")
    monkeypatch.setenv("LLAMACPP_VERBOSE", "1")
    with caplog.at_level(logging.INFO, logger="llcuda.server"), llcuda.InferenceEngine() as engine:
        engine.load_model(model)
        command = engine._server.command
    assert command[command.index("--threads") + 1] == "2"
    assert any("listening on" in record.getMessage() for record in caplog.records)


def run_infer(model: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llcuda", "infer", "-m", str(model), "-p", "x", "-n", "2", "--threads", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, check=False, timeout=60, env=environment
    )


def test_the_command_line_says_each_step_on_stderr_and_has_them_in_its_json(
    fail: Callable[..., None], model: Path
) -> None:
    fail(2, *FORMS)
    done = run_infer(model, "--json", "--raw")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["device"]["steps"] == [BATCH, CACHE]
    assert [line.partition("Trying again: ")[2] for line in done.stderr.splitlines() if "Trying" in line] == [
        *(f"{BATCH}.", f"{CACHE}."),
    ]


def test_the_command_line_takes_no_step_where_that_is_forbidden(fail: Callable[..., None], model: Path) -> None:
    fail(1, *FORMS)
    done = run_infer(model, "--fallback", "error")
    assert done.returncode == OutOfMemoryError.exit_code
    assert "Trying again" not in done.stderr
    assert "  try: " in done.stderr
