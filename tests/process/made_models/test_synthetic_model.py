"""Models of random weights with the real llama-server and llama-quantize."""

from __future__ import annotations

import json
import math
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import gguf
import pytest

from llcuda.client import InferenceClient
from llcuda.server import ServerManager
from tests.made_models.synthetic_model import SHAPES, write_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def manager(binaries: Path, guard: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerManager]:
    monkeypatch.setenv("LLAMA_SERVER_PATH", str(binaries / "llama-server"))
    monkeypatch.setattr("llcuda.server.manager.find_guard", lambda: guard)
    with ServerManager() as running:
        yield running


@pytest.mark.parametrize(
    ("name", "quantisation"), [(name, kind) for name in ("small", "small-moe") for kind in ("F16", "Q4_K_M")]
)
def test_the_server_loads_it_and_its_logits_are_finite_and_depend_on_the_prompt(
    manager: ServerManager, tmp_path: Path, *, name: str, quantisation: str
) -> None:
    path = write_model(tmp_path / "model.gguf", SHAPES[name], quantisation=quantisation)
    manager.start_server(path, threads=1)
    client = InferenceClient(url=manager.url, api_key=manager.api_key)
    answers = [
        client.infer(letters * 10, raw=True, max_tokens=8, temperature=0, n_probs=5) for letters in ("ab", "xyz")
    ]
    assert [answer.prompt_tokens for answer in answers] == [21, 31]
    assert answers[0].text != answers[1].text
    for answer in answers:
        assert answer.tokens_generated == 8
        assert answer.text.count(" w") == 8
        assert all(math.isfinite(entry["logprob"]) and -20 < entry["logprob"] < 0 for entry in answer.probabilities)


@pytest.mark.parametrize("name", ["small", "small-moe"])
def test_the_tensor_types_of_q4_k_m_are_those_that_llama_quantize_chooses(
    tmp_path: Path, binaries: Path, name: str
) -> None:
    shape = replace(SHAPES[name], layers=17)  # so many that every part of the rule has its say
    plain = write_model(tmp_path / "f16.gguf", shape)
    written = write_model(tmp_path / "written.gguf", shape, quantisation="Q4_K_M")
    quantised = tmp_path / "quantised.gguf"
    command = [str(binaries / "llama-quantize"), str(plain), str(quantised), "Q4_K_M", "1"]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    ours, theirs = (
        json.dumps({tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}, sort_keys=True)
        for path in (written, quantised)
    )
    assert ours == theirs
