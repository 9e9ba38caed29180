"""Speculative decoding with the real llama-server: the same answers, and figures that tell what it brings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gguf
import pytest

import llcuda
from llcuda.errors import DraftMismatchError, UsageError
from llcuda.models import resolve_model
from tools.demo_model.capitals import COUNTRIES

if TYPE_CHECKING:
    from pathlib import Path

PROMPTS = [
    *(f"What is {number}+{97 - number}?" for number in range(0, 98, 5)),
    *(f"What is the capital of {country.name}?" for country in COUNTRIES[:20]),
    "Count to fifty.", "Count to twenty.", "Say the alphabet.", "Tell me about llcuda.", "Who are you?",
]  # fmt: skip
# So that it drafts after eight equal tokens, and is wrong as often as not.
EAGER = {"spec_ngram_mod_n_match": 8, "spec_ngram_mod_n_min": 1, "spec_ngram_mod_n_max": 8}


def answer_all(**options: Any) -> tuple[list[str], dict[str, Any]]:
    with llcuda.InferenceEngine() as engine:
        engine.load_model("demo", silent=True, **options)
        texts = [engine.infer(prompt, temperature=0, max_tokens=200).text for prompt in PROMPTS]
        return texts, engine.get_metrics()


@pytest.fixture(scope="module")
def plain() -> list[str]:
    texts, metrics = answer_all()
    assert (metrics["draft_tokens"], metrics["draft_acceptance"]) == (0, None)
    return texts


@pytest.fixture(scope="module")
def wrong_draft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's draft with every token's embedding given to its neighbour: the same vocabulary, and never right."""
    path = resolve_model("demo-draft").path
    tensor = next(one for one in gguf.GGUFReader(path).tensors if one.name == "token_embd.weight")
    data, start, size = bytearray(path.read_bytes()), int(tensor.data_offset), int(tensor.n_bytes)
    row = size // int(tensor.shape[-1])
    data[start : start + size] = data[start + row : start + size] + data[start : start + row]
    target = tmp_path_factory.mktemp("models") / "wrong.gguf"
    target.write_bytes(data)
    return target


def test_answers_are_the_same_with_the_draft_model(plain: list[str]) -> None:
    texts, metrics = answer_all(draft="demo-draft")
    assert texts == plain
    assert 0 < metrics["draft_tokens_accepted"] < metrics["draft_tokens"]
    assert metrics["draft_acceptance"] > 0.5


def test_answers_are_the_same_with_n_grams(plain: list[str]) -> None:
    texts, metrics = answer_all(draft="ngram-mod", **EAGER)
    assert texts == plain
    assert 0 < metrics["draft_tokens_accepted"] < metrics["draft_tokens"]


def test_a_draft_that_is_never_right_is_reported_and_left_to_the_user(wrong_draft: Path) -> None:
    with llcuda.InferenceEngine() as engine:
        engine.load_model("demo", draft=wrong_draft, silent=True)
        pid = engine._server.server_pid
        for _ in range(3):
            assert engine.infer("Count to fifty.", temperature=0).text
        assert engine._server.server_pid == pid
        metrics, report = engine.get_metrics(), engine.draft_report
    assert metrics["draft_tokens"] > 0
    assert metrics["draft_acceptance"] < 0.1
    assert report is not None
    assert (report.is_on, report.spec_type) == (True, "draft-simple")
    assert (report.draft_tokens, report.acceptance) == (metrics["draft_tokens"], metrics["draft_acceptance"])


def test_a_draft_with_other_tokens_is_refused_and_nothing_is_left_running(tmp_path: Path) -> None:
    # The headers show nothing of it: as many tokens of the same kind, and the last one is spelt backwards.
    path = resolve_model("demo-draft").path
    token = bytes(gguf.GGUFReader(path).fields["tokenizer.ggml.tokens"].parts[-1])
    entry = len(token).to_bytes(8, "little")
    assert token != token[::-1]
    draft = tmp_path / "other.gguf"
    draft.write_bytes(path.read_bytes().replace(entry + token, entry + token[::-1], 1))
    engine = llcuda.InferenceEngine()
    with pytest.raises(DraftMismatchError, match="llama-server says"):
        engine.load_model("demo", draft=draft, silent=True)
    assert engine._server.state == "stopped"
    assert not engine.is_loaded


def test_vectors_are_not_drafted() -> None:
    with pytest.raises(UsageError, match="embeddings"), llcuda.InferenceEngine() as engine:
        engine.load_model("demo", embeddings=True, draft="auto", silent=True)
