"""Claude Code holds a session."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.process.gateway.clients.gateways import KEY

if TYPE_CHECKING:
    from collections.abc import Callable

    from llcuda.gateway.gateway import Gateway
    from tests.clients.conftest import Program

BRIEF = ("--tools", "Read", "--system-prompt", "Be brief.")


@pytest.fixture
def ask(program: Program, for_agents: Gateway) -> Callable[..., Any]:
    def run(*options: str, model: str = "long", status: int = 0) -> Any:
        printed = program(
            "claude", "--print", "--output-format", "json", *options, status=status,
            ANTHROPIC_BASE_URL=for_agents.url, ANTHROPIC_AUTH_TOKEN=KEY, ANTHROPIC_MODEL=model,
            ANTHROPIC_SMALL_FAST_MODEL=model, CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1", DISABLE_AUTOUPDATER="1",
            CLAUDE_CODE_MAX_OUTPUT_TOKENS="2000", CLAUDE_CODE_MAX_RETRIES="0", IS_SANDBOX="1",
        )  # fmt: skip
        return json.loads(printed)

    return run


def test_a_session_of_two_turns(ask: Callable[..., Any]) -> None:
    first = ask(*BRIEF, "What is 2+2?")
    assert (first["subtype"], first["is_error"]) == ("success", False)
    assert first["result"]
    assert first["usage"]["output_tokens"] > 0
    second = ask(*BRIEF, "--continue", "What is 3+3?")
    assert (second["session_id"], second["is_error"]) == (first["session_id"], False)
    assert second["usage"]["input_tokens"] + second["usage"]["cache_read_input_tokens"] > 10


def test_its_own_prompt(ask: Callable[..., Any]) -> None:
    answer = ask("What is 2+2?", "--tools", "Read")
    assert (answer["subtype"], answer["is_error"]) == ("success", False)
    assert answer["usage"]["input_tokens"] + answer["usage"]["cache_read_input_tokens"] > 1000


def test_a_model_that_is_not_here(ask: Callable[..., Any]) -> None:
    answer = ask(*BRIEF, "What is 2+2?", model="other", status=1)
    assert answer["is_error"]
    assert "other" in answer["result"]
