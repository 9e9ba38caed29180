"""Simon Willison's llm asks for a text, a stream, a value and a call, and goes on with a conversation."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from tests.process.gateway.clients.gateways import ANSWER, KEY, QUESTION

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.clients.conftest import Program

MODEL = """\
- model_id: {name}
  model_name: {name}
  api_base: {v1}
  api_key_name: llcuda
  supports_schema: true
  supports_tools: true
"""
ADD = 'def add(a: int, b: int) -> int:\n    "Add two numbers."\n    return a + b\n'


@pytest.fixture
def ask(program: Program, v1: str, tmp_path: Path) -> Callable[..., str]:
    (tmp_path / "extra-openai-models.yaml").write_text(
        "".join(MODEL.format(name=name, v1=v1) for name in ("demo", "other")), encoding="utf-8"
    )

    def run(*options: str, model: str = "demo", status: int = 0) -> str:
        settings = ("-m", model, "--key", KEY, "-o", "temperature", "0", "-o", "max_tokens", "60")
        command = (sys.executable, "-m", "llm", *settings, *options, QUESTION)
        return program(*command, status=status, LLM_USER_PATH=str(tmp_path)).strip()

    return run


def test_texts_and_a_conversation(ask: Callable[..., str]) -> None:
    assert ask() == ask("--no-stream") == ANSWER
    assert ask("-c")


def test_a_value(ask: Callable[..., str]) -> None:
    assert json.loads(ask("--schema", "answer int")) == {"answer": 4}


def test_a_function_is_called_and_its_result_is_answered(ask: Callable[..., str]) -> None:
    assert ask("--functions", ADD).endswith("The answer is 4.")


def test_a_model_that_is_not_here(ask: Callable[..., str]) -> None:
    assert not ask(model="other", status=1)
