"""Calls of tools that are strict, whole and streamed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.api.answer_schema import check_answer, check_stream, is_checked

NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
PLAIN = {"name": "f", "parameters": NUMBER}
TOOLS: dict[str, dict[str, Any]] = {
    "chat": {"type": "function", "function": {**PLAIN, "strict": True}},
    "messages": {"name": "f", "input_schema": NUMBER, "strict": True},
    "responses": {"type": "function", **PLAIN, "strict": True},
}


def answer_with(endpoint: str, arguments: str, *, is_cut_off: bool = False) -> Any:
    if endpoint == "chat":
        call = {"function": {"name": "f", "arguments": arguments}}
        reason = "length" if is_cut_off else "tool_calls"
        return {"choices": [{"finish_reason": reason, "message": {"content": "", "tool_calls": [call]}}]}
    if endpoint == "messages":
        used = {"type": "tool_use", "name": "f", "input": {} if is_cut_off else json.loads(arguments)}
        return {"stop_reason": "max_tokens" if is_cut_off else "tool_use", "content": [used]}
    item = {"type": "function_call", "name": "f", "arguments": arguments}
    return {"output": [item], "status": "incomplete" if is_cut_off else "completed"}


def stream_with(endpoint: str, *pieces: str) -> bytes:
    if endpoint == "chat":
        calls: list[Any] = [{"index": 0, "function": {"name": "f"}}]
        calls += [{"index": 0, "function": {"arguments": piece}} for piece in pieces]
        choices = [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None} for call in calls]
        events: list[Any] = [{"choices": [choice]} for choice in choices]
        events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    elif endpoint == "messages":
        block = {"type": "tool_use", "name": "f"}
        parts = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
        events = [{"type": "content_block_start", "index": 1, "content_block": block}]
        events += [{"type": "content_block_delta", "index": 1, "delta": part} for part in parts]
        events.append({"type": "message_delta", "delta": {"stop_reason": "tool_use"}})
    else:
        events = [{"type": "response.completed", "response": answer_with(endpoint, "".join(pieces))}]
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


@pytest.mark.parametrize("endpoint", TOOLS)
def test_a_call_holds_to_its_schema_or_is_an_error(endpoint: str) -> None:
    fields = {"tools": [TOOLS[endpoint]], "max_output_tokens": 9}
    assert is_checked(endpoint, fields)
    check_answer(endpoint, fields, json.dumps(answer_with(endpoint, '{"n":1}')).encode())
    check_answer(endpoint, fields, json.dumps(answer_with(endpoint, '{"n":', is_cut_off=True)).encode())
    check_stream(endpoint, fields, stream_with(endpoint, '{"n"', ":1}"))
    with pytest.raises(RefusedError, match=r"the call of f does not hold .*: \$: n is missing"):
        check_answer(endpoint, fields, json.dumps(answer_with(endpoint, "{}")).encode())
    with pytest.raises(RefusedError) as caught:
        check_stream(endpoint, fields, stream_with(endpoint, '{"n"', ':"x"}'))
    assert (caught.value.status, caught.value.code) == (502, "schema_mismatch")


@pytest.mark.parametrize("more", [{}, {"strict": False}, {"strict": True, "parameters": {}}])
def test_calls_of_other_tools_are_passed_on(more: dict[str, Any]) -> None:
    tool = {"function": {**PLAIN, **more}}
    assert not is_checked("chat", {"tools": [tool]})
    fields = {"tools": [tool, {"function": {**PLAIN, "name": "g", "strict": True}}]}
    check_answer("chat", fields, json.dumps(answer_with("chat", "{}")).encode())
