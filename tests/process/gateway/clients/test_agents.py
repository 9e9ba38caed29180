"""What Claude Code, Codex and llama.cpp's plugins for editors send is answered; their long texts were cut short."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from llcuda.gateway import GatewayConfig, KeyConfig, ModelConfig
from llcuda.gateway.gateway import Gateway
from tests.places import ROOT
from tests.process.gateway.clients.gateways import KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

WITH_KEY = {"Authorization": f"Bearer {KEY}"}
# The programs' prompts are longer than what the demo model was made for.
LONG = {"override_kv": "llama.context_length=int:32768"}
PLUGIN: dict[str, Any] = {
    "id_slot": 0, "input_prefix": "def f(", "input_suffix": "return 1", "input_extra": [], "prompt": "",
    "n_predict": 8, "n_indent": 4, "top_k": 40, "top_p": 0.9, "samplers": ["top_k", "top_p", "infill"], "stream": False,
    "cache_prompt": True, "t_max_prompt_ms": 500, "t_max_predict_ms": 1000, "stop": ["x"],
}  # fmt: skip


@pytest.fixture(scope="module")
def asker() -> Iterator[httpx.Client]:
    served = ModelConfig("demo", "demo", slots=1, ctx_size=32768, server_options=LONG)
    with (
        Gateway(GatewayConfig(models=(served,), port=0, keys=(KeyConfig("client", KEY),))) as running,
        httpx.Client(base_url=running.url, headers=WITH_KEY, trust_env=False, timeout=100) as client,
    ):
        yield client


def read_body(name: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((ROOT / "tests" / "data" / "agents" / f"{name}.json").read_bytes())
    return body


def read_events(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    return [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data: ")]


def test_claude_code_is_answered(asker: httpx.Client) -> None:
    body = {**read_body("claude_code"), "max_tokens": 20}
    events = read_events(asker.post("/v1/messages?beta=true", json=body))
    assert (events[0]["type"], events[-1]["type"]) == ("message_start", "message_stop")
    first = asker.post("/v1/messages/count_tokens?beta=true", json=body).json()["input_tokens"]
    assert first > 1000
    said = {"role": "assistant", "content": [{"type": "text", "text": "4", "cache_control": {"type": "ephemeral"}}]}
    again = {**body, "messages": [*body["messages"], said, *body["messages"]], "stream": False}
    assert asker.post("/v1/messages", json=again).json()["usage"]["output_tokens"] > 0


def test_codex_is_answered(asker: httpx.Client) -> None:
    body = {**read_body("codex"), "max_output_tokens": 20}
    events = read_events(asker.post("/v1/responses", json=body))
    assert (events[0]["type"], events[0]["response"]["model"]) == ("response.created", "demo")
    assert events[-1]["type"] in {"response.completed", "response.incomplete"}
    turns = [
        *body["input"],
        {"type": "reasoning", "summary": [], "content": None, "encrypted_content": "x"},
        {"type": "function_call", "name": "exec_command", "arguments": '{"cmd":"ls"}', "call_id": "c"},
        {"type": "function_call_output", "call_id": "c", "output": "a"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "4"}]},
        body["input"][-1],
    ]
    assert read_events(asker.post("/v1/responses", json={**body, "input": turns}))[-1]["response"]["output"]


def test_a_plugin_for_an_editor_is_answered(asker: httpx.Client) -> None:
    whole = asker.post("/infill", json=PLUGIN).json()
    wanted = ["content", "timings/prompt_n", "truncated", "nothing/at/all"]
    chosen = asker.post("/infill", json={**PLUGIN, "response_fields": wanted}).json()
    assert set(chosen) == {"content", "timings/prompt_n", "truncated"}
    assert type(whole["timings"]["prompt_n"]) is int
    files = [{"text": "a", "filename": "b"}]
    assert asker.post("/infill", json={**PLUGIN, "id_slot": 5, "input_extra": files}).is_success
