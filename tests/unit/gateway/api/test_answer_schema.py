"""Answers that have to hold to a schema, or to be a call of a tool."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.api.answer_schema import check_answer

NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
FORMAT = {"response_format": {"type": "json_schema", "json_schema": {"schema": NUMBER}}}
TEXT_FORMAT = {"text": {"format": {"type": "json_schema", "schema": NUMBER}}}
CONFIG = {"output_config": {"format": {"type": "json_schema", "schema": NUMBER}}}
REQUIRED = {"tool_choice": "required"}


def chat_answer(*texts: str, reason: str = "stop", **message: Any) -> dict[str, Any]:
    return {"choices": [{"finish_reason": reason, "message": {"content": text, **message}} for text in texts]}


def text_answer(text: str, reason: str = "stop") -> dict[str, Any]:
    return {"choices": [{"finish_reason": reason, "text": text}]}


def response(text: str, *, status: str = "completed", kind: str = "message") -> dict[str, Any]:
    output = [{"type": "reasoning"}, {"type": kind, "content": [{"type": "output_text", "text": text}]}]
    return {"output": output, "status": status}


def message(text: str, *, reason: str = "end_turn") -> dict[str, Any]:
    return {"content": [{"type": "thinking"}, {"type": "text", "text": text}], "stop_reason": reason}


@pytest.mark.parametrize(
    ("endpoint", "fields", "answer"),
    [
        ("chat", FORMAT, chat_answer('{"n":1}', ' {"n":2}')),
        ("chat", FORMAT, chat_answer('{"n":', reason="length")),
        ("chat", FORMAT, chat_answer("", reason="tool_calls", tool_calls=[{}])),
        ("chat", {}, chat_answer("x")),
        ("chat", {"response_format": {"type": "json_object"}}, chat_answer("{}")),
        ("completions", {"json_schema": NUMBER}, text_answer('{"n":1}')),
        ("completions", {"json_schema": NUMBER}, text_answer("{", "length")),
        ("completion", {"json_schema": NUMBER}, {"content": '{"n":1}', "stop_type": "eos"}),
        ("completion", {"json_schema": NUMBER}, [{"content": "{", "stop_type": "limit"}]),
        ("responses", TEXT_FORMAT, response('{"n":1}')),
        ("responses", TEXT_FORMAT, response("{", status="incomplete")),
        ("responses", TEXT_FORMAT, response("", kind="function_call")),
        ("messages", {}, message("x")),
        ("messages", CONFIG, message("{", reason="max_tokens")),
        ("chat", REQUIRED, chat_answer("", reason="tool_calls", tool_calls=[{}])),
        ("chat", REQUIRED, chat_answer("", reason="length")),
        ("responses", REQUIRED, response("", kind="function_call")),
        ("messages", {"tool_choice": {"type": "any"}}, message("", reason="tool_use")),
        ("messages", {"tool_choice": {"type": "auto"}}, message("x")),
    ],
)
def test_an_answer_that_holds_or_was_cut_off_is_passed_on(endpoint: str, fields: dict[str, Any], answer: Any) -> None:
    check_answer(endpoint, fields, json.dumps(answer).encode())


@pytest.mark.parametrize(
    ("endpoint", "fields", "answer"),
    [
        ("chat", FORMAT, chat_answer('{"n":1}', '{"n":"x"}')),
        ("chat", FORMAT, chat_answer("Sure!")),
        ("chat", FORMAT, chat_answer('{"n":NaN}')),
        ("chat", FORMAT, chat_answer("")),
        ("chat", {"response_format": {"type": "json_object"}}, chat_answer("[]")),
        ("completions", {"json_schema": NUMBER}, text_answer("{}")),
        ("completion", {"json_schema": {}}, {"content": "5", "stop_type": "eos"}),
        ("infill", {"json_schema": NUMBER}, [{"content": "", "stop_type": "eos"}]),
        ("responses", TEXT_FORMAT, response("{")),
        ("messages", CONFIG, message("{}")),
    ],
)  # fmt: skip
def test_an_answer_that_does_not_hold_is_an_error_never_an_answer(
    endpoint: str, fields: dict[str, Any], answer: Any
) -> None:
    with pytest.raises(RefusedError, match="does not hold to the schema") as caught:
        check_answer(endpoint, fields, json.dumps(answer).encode())
    assert (caught.value.status, caught.value.code) == (502, "schema_mismatch")


@pytest.mark.parametrize(
    ("endpoint", "fields", "answer"),
    [
        ("chat", REQUIRED, chat_answer("4")),
        ("chat", {"tool_choice": {"type": "function", "function": {"name": "f"}}}, chat_answer("")),
        ("chat", {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required"}}}, chat_answer("4")),
        ("responses", {"tool_choice": {"type": "function", "name": "f"}}, response("4")),
        ("responses", {"tool_choice": {"type": "allowed_tools", "mode": "required"}}, response("4")),
        ("messages", {"tool_choice": {"type": "any"}}, message("4")),
        ("messages", {"tool_choice": {"type": "tool", "name": "f"}}, message("4")),
    ],
)
def test_a_text_in_place_of_a_call_is_an_error_never_an_answer(
    endpoint: str, fields: dict[str, Any], answer: Any
) -> None:
    with pytest.raises(RefusedError, match="tool_choice asks for a call") as caught:
        check_answer(endpoint, fields, json.dumps(answer).encode())
    assert (caught.value.status, caught.value.code) == (502, "tool_call_missing")
