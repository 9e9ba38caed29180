"""Vercel's AI SDK asks by each of its providers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.clients.conftest import run_script
from tests.process.gateway.clients.gateways import ANSWER, KEY

if TYPE_CHECKING:
    from tests.clients.conftest import Program

SCRIPT = Path(__file__).with_name("ai_sdk.mjs")


def test_each_provider_is_answered(program: Program, v1: str) -> None:
    answers: dict[str, dict[str, Any]] = json.loads(run_script(program, SCRIPT, v1, KEY))
    assert set(answers) == {"responses", "chat", "compatible", "anthropic"}
    for name, answer in answers.items():
        assert (name, answer["text"], answer["streamed"], answer["finish"]) == (name, ANSWER, ANSWER, "stop")
        assert answer["used"] == answer["streamUsed"] > 5 < answer["pieces"] + 4
        assert (name, answer["value"]) == (name, {"answer": pytest.approx(4, abs=100)})
        assert (name, answer["results"], "4" in answer["answer"]) == (name, [4], True)
        assert (name, answer["status"], answer["isRetryable"]) == (name, 404, False)
        assert "there is demo" in answer["message"]
