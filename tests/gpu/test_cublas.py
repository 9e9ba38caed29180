"""cuBLAS is opened by the first call that needs it: what runs without it, and what is said where it is missing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llcuda.engine.placement import choose_placement
from llcuda.errors import LlcudaError
from llcuda.native import child_environment, find_executable
from tests.gpu.cublas import can_open, hide_library

if TYPE_CHECKING:
    import llcuda
    from llcuda.devices import Gpu
    from llcuda.native import Backend

pytestmark = pytest.mark.gpu

LONG_PROMPT = "0123456789" * 60
SHORT_PROMPT = "0123456789"
"""Up to 16 tokens at once go through llama.cpp's own kernels, also in F16."""
TURING = 7.5
"""From here on, dense quantised models never need cuBLAS."""


@pytest.fixture(scope="module")
def backend() -> Backend:
    backend = choose_placement("cuda", require_gpu=True).backend
    assert backend is not None
    return backend


@pytest.fixture
def without_cublas(backend: Backend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let the server find no cuBLAS: not in the folders that the package looks in, and not in the system's."""
    monkeypatch.setattr("llcuda.native.libraries._places", lambda _major: ())
    hidden = hide_library(backend.cublas, dict(os.environ), folder=tmp_path / "hidden")
    monkeypatch.setenv("LD_LIBRARY_PATH", hidden["LD_LIBRARY_PATH"])
    assert not can_open(backend.cublas, child_environment(find_executable(), backend=backend))


def has_opened(engine: llcuda.InferenceEngine, library: str) -> bool:
    return library in Path(f"/proc/{engine._server.server_pid}/maps").read_text()


def ask(engine: llcuda.InferenceEngine, prompt: str) -> int:
    return engine.infer(prompt, raw=True, max_tokens=4, temperature=0, ignore_eos=True).tokens_generated


def assert_names_the_package(error: LlcudaError, library: str) -> None:
    words = f"{error} {error.hint}"
    assert library in words, (words, error.log_tail)
    assert "pip install" in words
    assert "nvidia-cublas" in words


def test_a_long_f16_prompt_uses_cublas_or_names_the_package(
    engine: llcuda.InferenceEngine, models: dict[str, Path], backend: Backend
) -> None:
    engine.load_model(models["F16"], device="cuda", ctx_size=1024)
    assert not has_opened(engine, backend.cublas)
    if can_open(backend.cublas, child_environment(find_executable(), backend=backend)):
        assert ask(engine, LONG_PROMPT) == 4
        assert has_opened(engine, backend.cublas)
    else:
        with pytest.raises(LlcudaError) as caught:
            ask(engine, LONG_PROMPT)
        assert_names_the_package(caught.value, backend.cublas)


@pytest.mark.usefixtures("without_cublas")
def test_without_cublas_a_long_f16_prompt_is_an_error_that_names_the_package(
    engine: llcuda.InferenceEngine, models: dict[str, Path], backend: Backend
) -> None:
    engine.load_model(models["F16"], device="cuda", ctx_size=1024)
    with pytest.raises(LlcudaError) as caught:
        ask(engine, LONG_PROMPT)
    assert_names_the_package(caught.value, backend.cublas)


@pytest.mark.usefixtures("without_cublas")
@pytest.mark.parametrize("attention", [True, None], ids=["flash attention", "as llama-server chooses"])
def test_without_cublas_a_dense_quantised_model_runs_from_turing_on(
    engine: llcuda.InferenceEngine, models: dict[str, Path], gpu: Gpu, *, backend: Backend, attention: bool | None
) -> None:
    engine.load_model(models["Q4_K_M"], device="cuda", ctx_size=1024, flash_attn=attention)
    if float(gpu.capability) >= TURING:
        assert ask(engine, LONG_PROMPT) == 4
        assert ask(engine, SHORT_PROMPT) == 4
        assert not has_opened(engine, backend.cublas)
    else:
        assert ask(engine, SHORT_PROMPT) == 4


@pytest.mark.usefixtures("without_cublas")
def test_without_cublas_the_demo_model_answers_or_names_the_package(
    engine: llcuda.InferenceEngine, backend: Backend
) -> None:
    engine.load_model("demo", device="cuda")
    assert "4" in engine.infer("What is 2+2?", temperature=0).text  # 15 tokens; the next one has 17
    try:
        answer = engine.infer("What is the capital of France?", temperature=0).text
    except LlcudaError as error:
        assert_names_the_package(error, backend.cublas)
    else:
        assert "Paris" in answer
