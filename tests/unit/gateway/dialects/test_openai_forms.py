"""What OpenAI's API takes, in the form that llama-server takes."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.api.fields import check_fields, parse_body
from llcuda.gateway.dialects.openai_forms import to_known_forms

USER = {"role": "user", "content": "Hello"}


def call(arguments: Any) -> dict[str, Any]:
    function = {"name": "add", "arguments": arguments}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ('{"a": 1}', '{"a": 1}'),
        ({"a": 1}, {"a": 1}),
        ("", "{}"),
        (" ", "{}"),
        (None, "{}"),
        ("{", '{"arguments": "{"}'),
        ('{"city": "Par', '{"arguments": "{\\"city\\": \\"Par"}'),
        ("[1]", '{"arguments": "[1]"}'),
        ('{"a": NaN}', '{"arguments": "{\\"a\\": NaN}"}'),
        ([1], '{"arguments": [1]}'),
    ],
)
def test_arguments_are_an_object_whatever_a_model_left_of_them(arguments: Any, told: Any) -> None:
    fields = to_known_forms("chat", {"messages": [USER, call(arguments)]})
    assert fields["messages"][1]["tool_calls"][0]["function"]["arguments"] == told
    item = {"type": "function_call", "call_id": "1", "name": "add", "arguments": arguments}
    assert to_known_forms("responses", {"input": [item]})["input"][0]["arguments"] == (
        told if type(told) is str else json.dumps(told)
    )


@pytest.mark.parametrize(
    ("endpoint", "fields", "known"),
    [
        ("chat", {"seed": 2**63 - 1}, {"seed": (2**63 - 1) % (2**32 - 1)}),
        ("chat", {"seed": -5}, {"seed": 2**32 - 6}),
        ("chat", {"stop": ["", "a"]}, {"stop": ["a"]}),
        ("completion", {"stop": ""}, {"stop": []}),
        ("messages", {"stop_sequences": ["", "a"]}, {"stop_sequences": ["a"]}),
        ("chat", {"top_logprobs": 0}, {}),
        ("chat", {"logprobs": True, "top_logprobs": 0}, {"logprobs": True, "top_logprobs": 1}),
        ("responses", {"top_logprobs": 0}, {}),
        ("completions", {"logprobs": 0}, {"logprobs": 1}),
        ("completions", {"best_of": 2, "n": 2}, {"n": 2}),
        ("completions", {"best_of": 2}, {"best_of": 2}),
        ("completions", {"echo": False, "suffix": ""}, {}),
        ("chat", {"grammar": None, "max_tokens": None, "json_schema": {}}, {"json_schema": {}}),
        ("embeddings", {"input": "a", "encoding_format": None}, {"input": "a"}),
        ("chat", {"response_format": {"type": "json_schema", "schema": {"type": "null"}, "strict": True}},
         {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "null"}, "strict": True}}}),
        ("rerank", {"documents": [{"text": "a"}, "b", {"title": "c"}]}, {"documents": ["a", "b", {"title": "c"}]}),
        ("chat", {"messages": [{**USER, "name": None}]}, {"messages": [USER]}),
        ("chat", {"tools": [{"type": "function", "function": {"name": "f", "description": None}}]},
         {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        ("responses", {"tools": [{"type": "function", "name": "f", "strict": None}]},
         {"tools": [{"type": "function", "name": "f"}]}),
        ("chat", {"messages": [{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}]},
         {"messages": [{"role": "assistant", "content": [{"type": "text", "text": "No."}]}]}),
        ("chat", {"messages": [{"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}]},
         {"messages": [{"role": "assistant", "function_call": {"name": "f", "arguments": "{}"},
                        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]}]}),
    ],
)  # fmt: skip
def test_a_form_that_openai_takes_becomes_one_that_is_known(
    endpoint: str, fields: dict[str, Any], known: dict[str, Any]
) -> None:
    assert to_known_forms(endpoint, fields) == known


def test_what_is_known_already_is_left_as_it_is() -> None:
    fields = {"messages": [USER, call("{}")], "seed": 7, "stop": ["a"], "tools": [{"type": "function"}]}
    assert to_known_forms("chat", fields) is fields


KEYS = ["role", "content", "tool_calls", "function", "arguments", "name", "type", "text", "id", "image_url", "refusal"]
VALUES = st.recursive(
    st.sampled_from([None, 1, "", "a", "{", "function", "text", "user", "assistant", "tool", "refusal", True]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=15,
)


@given(st.sampled_from(["chat", "responses", "completions"]), st.dictionaries(
    st.sampled_from(["messages", "input", "tools", "seed", "stop", "best_of", "logprobs", "top_logprobs"]), VALUES
))  # fmt: skip
def test_whatever_is_sent_is_changed_once_and_then_taken_or_refused(endpoint: str, fields: dict[str, Any]) -> None:
    known = to_known_forms(endpoint, fields)
    assert to_known_forms(endpoint, known) == known
    assert parse_body(json.dumps(known).encode()) == known
    with suppress(RefusedError):
        check_fields(endpoint, known)
