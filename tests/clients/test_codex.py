"""Codex holds a session."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.process.gateway.clients.gateways import KEY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llcuda.gateway.gateway import Gateway
    from tests.clients.conftest import Program

CONFIG = """\
model = "long"
model_provider = "llcuda"
[model_providers.llcuda]
name = "llcuda"
base_url = "{url}/v1"
env_key = "LLCUDA_KEY"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
"""


@pytest.fixture
def ask(program: Program, for_agents: Gateway, tmp_path: Path) -> Callable[..., Any]:
    (tmp_path / ".codex").mkdir()
    (tmp_path / ".codex" / "config.toml").write_text(CONFIG.format(url=for_agents.url), encoding="utf-8")

    def run(*options: str, status: int = 0) -> dict[str, Any]:
        """Return the last event of each type."""
        printed = program("codex", "exec", "--json", "--skip-git-repo-check", *options, status=status, LLCUDA_KEY=KEY)
        events = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
        return {event["type"]: event for event in events}

    return run


def test_a_session_of_two_turns(ask: Callable[..., Any]) -> None:
    first = ask("What is 2+2?")
    assert first["item.completed"]["item"]["type"] == "agent_message"
    assert first["turn.completed"]["usage"]["output_tokens"] > 0
    second = ask("resume", "--last", "What is 3+3?")
    assert second["thread.started"]["thread_id"] == first["thread.started"]["thread_id"]
    assert second["turn.completed"]["usage"]["input_tokens"] > first["turn.completed"]["usage"]["input_tokens"] > 1000


def test_a_model_that_is_not_here(ask: Callable[..., Any]) -> None:
    assert "there is long" in json.dumps(ask("-m", "other", "What is 2+2?", status=1)["turn.failed"])
