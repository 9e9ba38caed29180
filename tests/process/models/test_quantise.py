"""Quantising with llama.cpp's own quantiser."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llcuda import InferenceEngine
from llcuda.errors import LlcudaError, ModelError, UsageError
from llcuda.models import quantise_model, resolve_model
from llcuda.models.quantise import _base
from llcuda.store import ModelStore, get_digest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLCUDA_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_quantised_model_answers_and_says_what_it_was_made_of() -> None:
    model = quantise_model("demo", "Q8_0", threads=1)
    assert model.names == ("demo-Q8_0",)
    assert get_digest(resolve_model("demo").path) in str(model.facts.source)
    assert resolve_model("demo-Q8_0").info.quantisation == "Q8_0"
    assert model.bytes < resolve_model("demo").info.file_bytes * 0.6
    with InferenceEngine() as engine:
        engine.load_model("demo-Q8_0", device="cpu")
        assert engine.infer("What is 2+2?", temperature=0).text == "2 + 2 = 4."


def test_what_is_quantised_already_needs_to_be_allowed() -> None:
    quantise_model("demo", "Q8_0", stored_as="small")
    with pytest.raises(ModelError, match="requantizing from type q8_0") as caught:
        quantise_model("small", "Q4_0")
    assert "--allow-requantize" in caught.value.hint
    assert quantise_model("small", "Q4_0", is_requantised=True).names == ("small-Q4_0",)


@pytest.mark.parametrize(
    ("name", "quantisation", "stored_as", "kind"),
    [
        ("demo", "Q9_X", None, UsageError),
        ("demo", "--help", None, LlcudaError),
        ("demo", "Q8_0", "demo", UsageError),
        ("nothing-here", "Q8_0", None, ModelError),
    ],
)
def test_what_cannot_be_leaves_nothing(
    name: str, quantisation: str, *, stored_as: str | None, kind: type[LlcudaError], home: Path
) -> None:
    with pytest.raises(kind):
        quantise_model(name, quantisation, stored_as=stored_as)
    assert ModelStore().list() == {}
    assert not list(home.rglob("*.part"))


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("demo", "demo"), ("/models/x-F16.gguf", "x"), ("org/repo:sub/big-BF16-00001-of-00003.gguf", "big"),
        ("gemma-3-1b-Q4_K_M", "gemma-3-1b"), ("mine", "mine"),
    ],
)  # fmt: skip
def test_the_name_is_without_the_old_quantisation(name: str, base: str) -> None:
    assert _base(name) == base
