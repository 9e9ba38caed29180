"""OpenAI's own client lets a gateway call functions, and asks it for values of a type."""

from __future__ import annotations

from typing import Any

import openai
import pydantic
import pytest

from tests.process.gateway.clients.gateways import MESSAGES, PARAMETERS

TOOL: Any = {"type": "function", "function": {"name": "add", "description": "Add.", "parameters": PARAMETERS}}
NAMED: Any = {"type": "function", "function": {"name": "add"}}


class Sum(pydantic.BaseModel):
    answer: int


class TestTools:
    @pytest.mark.parametrize("choice", ["auto", "required", NAMED])
    def test_a_function_is_called(self, client: openai.OpenAI, choice: Any) -> None:
        answer = client.chat.completions.create(
            model="demo", messages=MESSAGES, tools=[TOOL], tool_choice=choice, temperature=0, max_tokens=60
        )
        assert answer.choices[0].finish_reason == "tool_calls"
        (call,) = answer.choices[0].message.tool_calls or []
        assert call.type == "function"
        assert (call.function.name, call.function.arguments) == ("add", '{"a": 2, "b": 2}')

    def test_the_function_that_is_named_is_called_with_probabilities_too(self, client: openai.OpenAI) -> None:
        other: Any = {"type": "function", "function": {"name": "other", "parameters": PARAMETERS}}
        chosen: Any = {"type": "function", "function": {"name": "other"}}
        answer = client.chat.completions.create(
            model="demo",
            messages=MESSAGES,
            tools=[TOOL, other],
            tool_choice=chosen,
            logprobs=True,
            temperature=0,
            max_tokens=60,
        )
        called: Any = answer.choices[0].message.tool_calls
        assert [call.function.name for call in called] == ["other"]

    def test_none_is_called_where_none_may_be(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(
            model="demo", messages=MESSAGES, tools=[TOOL], tool_choice="none", temperature=0, max_tokens=60
        )
        assert answer.choices[0].message.tool_calls is None
        assert answer.choices[0].finish_reason == "stop"

    def test_a_call_is_streamed_and_its_result_is_answered(self, client: openai.OpenAI) -> None:
        with client.chat.completions.stream(
            model="demo", messages=MESSAGES, tools=[TOOL], tool_choice="required", temperature=0, max_tokens=60
        ) as stream:
            message = stream.get_final_completion().choices[0].message
        (call,) = message.tool_calls or []
        assert call.function.arguments == '{"a": 2, "b": 2}'
        result: Any = {"role": "tool", "tool_call_id": call.id, "content": "4"}
        turns = [*MESSAGES, message.model_dump(exclude_none=True, exclude={"parsed"}), result]
        for turn in turns:
            for made in turn.get("tool_calls", ()):
                made["function"].pop("parsed_arguments", None)
        answer = client.chat.completions.create(
            model="demo", messages=turns, tools=[TOOL], temperature=0, max_tokens=60
        )
        assert "4" in (answer.choices[0].message.content or "")


class TestValues:
    def test_a_schema_is_held_to(self, client: openai.OpenAI) -> None:
        wanted: Any = {"name": "sum", "strict": True, "schema": Sum.model_json_schema()}
        answer = client.chat.completions.create(
            model="demo",
            messages=MESSAGES,
            response_format={"type": "json_schema", "json_schema": wanted},
            temperature=0,
            max_tokens=60,
        )
        assert Sum.model_validate_json(answer.choices[0].message.content or "") == Sum(answer=4)

    def test_a_value_that_does_not_hold_is_no_answer_with_probabilities_either(self, client: openai.OpenAI) -> None:
        # llama-server's grammar leaves out of account what a number is to be a multiple of.
        schema = {**Sum.model_json_schema(), "properties": {"answer": {"type": "integer", "multipleOf": 997}}}
        wanted: Any = {"type": "json_schema", "json_schema": {"name": "sum", "schema": schema}}
        asked: Any = {"model": "demo", "messages": MESSAGES, "response_format": wanted, "temperature": 0}
        for told in (False, True):
            with pytest.raises(openai.InternalServerError, match="schema") as caught:
                client.chat.completions.create(**asked, logprobs=told, max_tokens=60)
            assert caught.value.status_code == 502

    def test_the_client_makes_a_value_of_it(self, client: openai.OpenAI) -> None:
        asked: Any = {"model": "demo", "messages": MESSAGES, "temperature": 0, "max_tokens": 60}
        whole = client.chat.completions.parse(**asked, response_format=Sum)
        assert whole.choices[0].message.parsed == Sum(answer=4)
        with client.chat.completions.stream(**asked, response_format=Sum) as stream:
            assert stream.get_final_completion().choices[0].message.parsed == Sum(answer=4)
