"""Whole answers that have to hold to a schema."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.api.answer_schema import check_answer

NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
FORMAT = {"response_format": {"type": "json_schema", "json_schema": {"schema": NUMBER}}}
TEXT_FORMAT = {"text": {"format": {"type": "json_schema", "schema": NUMBER}}, "max_output_tokens": 5}


def chat_answer(*texts: str, reason: str = "stop", **message: Any) -> dict[str, Any]:
    return {"choices": [{"finish_reason": reason, "message": {"content": text, **message}} for text in texts]}


def text_answer(text: str, reason: str = "stop") -> dict[str, Any]:
    return {"choices": [{"finish_reason": reason, "text": text}]}


def response(text: str, *, tokens: int = 3, kind: str = "message") -> dict[str, Any]:
    output = [{"type": "reasoning"}, {"type": kind, "content": [{"type": "output_text", "text": text}]}]
    return {"output": output, "usage": {"output_tokens": tokens}}


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
        ("responses", TEXT_FORMAT, response("{", tokens=5)),
        ("responses", TEXT_FORMAT, response("", kind="function_call")),
        ("messages", {}, {}),
    ],
)
def test_an_answer_that_holds_or_was_cut_off_is_passed_on(
    endpoint: str, fields: dict[str, Any], answer: Any
) -> None:
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
        ("responses", {**TEXT_FORMAT, "max_output_tokens": -1}, response("{")),
    ],
)  # fmt: skip
def test_an_answer_that_does_not_hold_is_an_error_never_an_answer(
    endpoint: str, fields: dict[str, Any], answer: Any
) -> None:
    with pytest.raises(RefusedError, match="does not hold to the schema") as caught:
        check_answer(endpoint, fields, json.dumps(answer).encode())
    assert (caught.value.status, caught.value.code) == (502, "schema_mismatch")
