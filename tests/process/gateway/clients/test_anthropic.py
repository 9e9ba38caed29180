"""Anthropic's own client asks a gateway."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anthropic
import httpx
import pytest

from tests.process.gateway.clients.gateways import ANSWER, KEY, MESSAGES, PARAMETERS, gateway, is_busy
from tests.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llcuda.gateway.gateway import Gateway

# The newest client has no argument for it.
LIKELIEST = {"temperature": 0}
TOOL: Any = {"name": "add", "description": "Add.", "input_schema": PARAMETERS}
ASKED: Any = {"model": "demo", "messages": MESSAGES, "max_tokens": 60, "extra_body": LIKELIEST}


@pytest.fixture(scope="module")
def client(running: Gateway) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=running.url, api_key=KEY, max_retries=0) as client:
        yield client


def test_a_message_is_answered(client: anthropic.Anthropic) -> None:
    answer = client.messages.create(**ASKED, system="Be brief.")
    assert (answer.role, answer.stop_reason, answer.model) == ("assistant", "end_turn", "demo")
    assert [part.text for part in answer.content if part.type == "text"]
    assert answer.usage.output_tokens > 3
    stopped = client.messages.create(**ASKED, stop_sequences=["="])
    assert stopped.stop_sequence == "="


def test_a_message_holds_to_its_schema(client: anthropic.Anthropic) -> None:
    schema = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}
    config: Any = {"format": {"type": "json_schema", "schema": schema}, "effort": "low"}
    (part,) = client.messages.create(**ASKED, output_config=config).content
    assert part.type == "text"
    assert json.loads(part.text) == {"answer": 4}
    with client.messages.stream(**ASKED, output_config=config) as stream:
        assert json.loads("".join(stream.text_stream)) == {"answer": 4}


def test_what_cannot_be_honoured_is_refused_with_the_reason(running: Gateway) -> None:
    for name, value in (("container", "c"), ("mcp_servers", [{}]), ("output_config", {"format": {"type": "text"}})):
        asked = {"model": "demo", "messages": MESSAGES, "max_tokens": 9, name: value}
        answer = httpx.post(f"{running.url}/v1/messages", json=asked, headers={"x-api-key": KEY}, trust_env=False)
        told = answer.json()
        assert (answer.status_code, told["type"]) == (400, "error")
        assert (told["error"]["type"], told["error"]["param"]) == ("invalid_request_error", name)


def test_a_message_is_streamed(client: anthropic.Anthropic) -> None:
    with client.messages.stream(**ASKED) as stream:
        assert "".join(stream.text_stream) == ANSWER
        assert stream.get_final_message().stop_reason == "end_turn"
    kinds = [event.type for event in client.messages.create(**ASKED, stream=True)]
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
    assert kinds.count("content_block_delta") > 5


def test_tokens_are_counted(client: anthropic.Anthropic) -> None:
    assert client.messages.count_tokens(model="demo", messages=MESSAGES).input_tokens > 5


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "add"}])
def test_a_tool_is_called_and_its_result_is_answered(client: anthropic.Anthropic, choice: Any) -> None:
    answer = client.messages.create(**ASKED, tools=[TOOL], tool_choice=choice)
    assert answer.stop_reason == "tool_use"
    (call,) = answer.content
    assert call.type == "tool_use"
    assert (call.name, call.input) == ("add", {"a": 2, "b": 2})
    with client.messages.stream(**ASKED, tools=[TOOL], tool_choice=choice) as stream:
        (streamed,) = stream.get_final_message().content
    assert streamed.type == "tool_use"
    assert streamed.input == call.input
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "4"}
    turns: Any = [
        *MESSAGES,
        {"role": "assistant", "content": [call.model_dump(include={"type", "id", "name", "input"})]},
        {"role": "user", "content": [result]},
    ]
    (part,) = client.messages.create(**{**ASKED, "messages": turns}, tools=[TOOL]).content
    assert part.type == "text"
    assert "4" in part.text


def test_the_key_may_be_sent_either_way(running: Gateway) -> None:
    with anthropic.Anthropic(base_url=running.url, auth_token=KEY, api_key=None, max_retries=0) as client:
        assert client.messages.create(**ASKED).content


def test_each_status_is_the_clients_own_exception(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.AuthenticationError):
        client.with_options(api_key="wrong").messages.create(**ASKED)
    with pytest.raises(anthropic.NotFoundError, match="there is demo"):
        client.messages.create(**{**ASKED, "model": "other"})
    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        client.messages.create(**{**ASKED, "extra_body": {"temperature": -1}})


def test_a_stream_that_is_left_frees_its_slot() -> None:
    with gateway(ignore_eos=True) as running, anthropic.Anthropic(base_url=running.url, api_key=KEY) as client:
        with client.messages.stream(**{**ASKED, "max_tokens": 900}) as stream:
            next(iter(stream))
            assert is_busy(running)
        wait_until(lambda: not is_busy(running))
