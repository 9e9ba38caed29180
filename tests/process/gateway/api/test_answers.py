"""A real llama-server's answers, held to what was asked for: a call that is required, a schema, and no cut end."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anthropic
import httpx
import openai
import pytest

from tests.process.gateway.clients.gateways import KEY, PARAMETERS, gateway

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llcuda.gateway.gateway import Gateway

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
ASKED = [{"role": "user", "content": "Write a long poem about the sea."}]
FUNCTION = {"name": "add", "parameters": PARAMETERS}
CALLING: dict[str, dict[str, Any]] = {
    CHAT: {"messages": ASKED, "tools": [{"type": "function", "function": FUNCTION}], "tool_choice": "required"},
    RESPONSES: {"input": ASKED, "tools": [{"type": "function", **FUNCTION}], "tool_choice": "required"},
    MESSAGES: {
        "messages": ASKED, "tools": [{"name": "add", "input_schema": PARAMETERS}], "tool_choice": {"type": "any"},
        "max_tokens": 60,
    },
}  # fmt: skip
TEXTS = {CHAT: r'"content":\s?"[^"]', RESPONSES: r'"output_text"', MESSAGES: r'"type":\s?"text"'}
TWICE = {"type": "array", "items": {"const": 1}, "minItems": 2, "maxItems": 2, "uniqueItems": True}
NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.fixture(scope="module")
def running() -> Iterator[Gateway]:
    with gateway(workers=1) as started:
        yield started


@pytest.fixture(scope="module")
def plain() -> Iterator[Gateway]:
    with gateway(workers=1, slots=1, chat_template="chatml") as started:
        yield started


def ask(running: Gateway, path: str, **fields: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {KEY}"}
    return httpx.post(f"{running.url}{path}", json=fields, headers=headers, timeout=60, trust_env=False)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", CALLING)
def test_a_call_that_is_required_is_never_a_text(running: Gateway, path: str, *, stream: bool) -> None:
    for _ in range(5):
        answer = ask(running, path, **CALLING[path], temperature=1.5, stream=stream)
        assert answer.status_code == 200, answer.text
        assert '"add"' in answer.text
        assert not re.search(TEXTS[path], answer.text)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", CALLING)
def test_a_call_that_the_template_has_no_form_for_is_refused(plain: Gateway, path: str, *, stream: bool) -> None:
    answer = ask(plain, path, **CALLING[path], stream=stream)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "not_supported", "tool_choice")
    assert "tool_choice" in error["message"]
    left_to_it = {"type": "auto"} if path == MESSAGES else "auto"
    assert ask(plain, path, **{**CALLING[path], "tool_choice": left_to_it, "stream": stream}).status_code == 200


def test_a_response_with_a_schema_is_never_completed_without_holding_to_it(running: Gateway) -> None:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=KEY, max_retries=0) as client:
        asked: Any = {"model": "demo", "input": "x", "max_output_tokens": 80}
        wrong: Any = {"format": {"type": "json_schema", "name": "a", "schema": TWICE}}
        with suppress(openai.InternalServerError):  # if all of it comes at once, no stream has begun
            *_, last = client.responses.create(**asked, text=wrong, stream=True)
            assert last.type == "response.failed"
            assert (last.response.status, last.response.error.code) == ("failed", "server_error")
            assert "an item is there twice" in str(last.response.error)
        with pytest.raises(openai.InternalServerError, match="an item is there twice"):
            client.responses.create(**asked, text=wrong)
        cut: Any = {"format": {"type": "json_schema", "name": "a", "schema": NUMBER}}
        *_, last = client.responses.create(**{**asked, "max_output_tokens": 2}, text=cut, stream=True)
        assert (last.type, last.response.status) == ("response.incomplete", "incomplete")
        *_, last = client.responses.create(**asked, text=cut, stream=True)
        assert (last.type, last.response.status) == ("response.completed", "completed")


def test_a_message_with_a_schema_never_ends_well_without_holding_to_it(running: Gateway) -> None:
    with anthropic.Anthropic(base_url=running.url, api_key=KEY, max_retries=0) as client:
        asked: Any = {"model": "demo", "messages": ASKED, "max_tokens": 80}
        wrong: Any = {"format": {"type": "json_schema", "schema": TWICE}}
        with pytest.raises(anthropic.APIStatusError, match="an item is there twice"):
            list(client.messages.create(**asked, output_config=wrong, stream=True))
        cut: Any = {"format": {"type": "json_schema", "schema": NUMBER}}
        with client.messages.stream(**{**asked, "max_tokens": 2}, output_config=cut) as stream:
            assert stream.get_final_message().stop_reason == "max_tokens"
