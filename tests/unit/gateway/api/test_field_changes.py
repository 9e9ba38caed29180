"""What is said to llama-server in other words than the client's, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.api.field_changes import to_understood
from llcuda.gateway.api.fields import parse_body

NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.mark.parametrize(
    "body",
    [b"{}", b' {"a":1.50}\n', b'{"stream":true}', b' { "stream" : false, "stream_options": null } ',
     b'{"continue_final_message":true}', b'{"tool_choice":"auto"}'],
)  # fmt: skip
def test_a_body_that_is_understood_stays_as_it_is(body: bytes) -> None:
    assert to_understood(body, parse_body(body)) is body


NAMES = st.text().map("x".__add__)


@given(st.dictionaries(NAMES, st.one_of(st.none(), st.text(), st.floats(allow_nan=False, allow_infinity=False))))
def test_no_other_field_changes(fields: dict[str, Any]) -> None:
    given = {**fields, "tools": [{"name": "f"}], "tool_choice": {"type": "none"}}
    assert parse_body(to_understood(json.dumps(given).encode(), given)) == {**given, "tools": []}


TOOLS = [{"type": "function", "function": {"name": name}} for name in "fg"]
FLAT = [{"type": "function", "name": name} for name in "fg"]


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "g"}}},
            {"tools": TOOLS[1:], "tool_choice": "required"},
        ),
        (
            {"tools": FLAT, "tool_choice": {"type": "function", "name": "g"}},
            {"tools": FLAT[1:], "tool_choice": "required"},
        ),
        (
            {"tools": FLAT, "tool_choice": {"type": "tool", "name": "g"}},
            {"tools": FLAT[1:], "tool_choice": {"type": "tool", "name": "g"}},
        ),
        ({"tools": FLAT, "tool_choice": {"type": "none"}}, {"tools": []}),
        ({"tools": FLAT, "tool_choice": {"type": "any"}}, {"tools": FLAT}),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": NUMBER}}},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": NUMBER}}},
        ),
    ],
)
def test_what_llama_server_would_leave_out_of_account_is_said_in_its_words(
    fields: dict[str, Any], wanted: dict[str, Any]
) -> None:
    assert parse_body(to_understood(json.dumps(fields).encode(), fields)) == {**fields, **wanted}


def test_a_tool_that_is_not_there_cannot_be_chosen() -> None:
    fields = {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "h"}}}
    with pytest.raises(RefusedError, match="no tool has this name") as caught:
        to_understood(json.dumps(fields).encode(), fields)
    assert caught.value.param == "tool_choice"


def test_a_field_that_is_not_for_llama_server_is_left_out() -> None:
    fields = {"id_slot": 1, "response_fields": ["content"], "n": 1}
    assert parse_body(to_understood(json.dumps(fields).encode(), fields)) == {"n": 1}
    assert parse_body(to_understood(json.dumps(fields).encode(), fields, {"x": 2})) == {"n": 1, "x": 2}
