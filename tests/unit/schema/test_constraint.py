"""Schemas as llama-server is sent them."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest

from llcuda.errors import UsageError
from llcuda.schema import compile_schema
from llcuda.schema.constraint import constrain
from llcuda.schema.tool_calls import constrain_tools
from tests.inputs.fuzzed_schemas import choose_schema

INTEGER = {"type": "integer"}


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"type": "string", "pattern": r"^\d{4}$"}, {"type": "string", "pattern": "^[0-9]{4,4}$"}),
        ({"properties": {"v": True, "w": False}}, {"type": "object", "properties": {"v": {}}}),
        (
            {"type": "object", "propertyNames": {"enum": ["a"]}, "additionalProperties": INTEGER},
            {"type": "object", "additionalProperties": False, "properties": {"a": INTEGER}},
        ),
        ({"type": "integer", "minimum": 100}, {**INTEGER, "minimum": 100, "maximum": 10**15 - 1}),
        ({"type": "integer", "exclusiveMinimum": 0, "maximum": 5.5}, {**INTEGER, "minimum": 1, "maximum": 5}),
        ({"type": "integer", "multipleOf": 5, "minimum": 1, "maximum": 12}, {**INTEGER, "enum": [5, 10]}),
        ({"type": "number", "minimum": 0, "maximum": 10}, {"type": "number", "enum": [n / 10 for n in range(101)]}),
        ({"type": "number", "minimum": -90, "maximum": 90}, None),
        (
            {"type": "object", "properties": {"a": {}}, "anyOf": [{"required": ["a"]}, {"minProperties": 1}]},
            {"anyOf": [{"type": "object", "properties": {"a": {}}, "required": ["a"]},
                       {"type": "object", "properties": {"a": {}}, "minProperties": 1}]},
        ),
        (
            {"allOf": [{"properties": {"a": INTEGER}}, {"properties": {"a": {"maximum": 3}}, "required": ["a"]}]},
            {"type": "object", "required": ["a"],
             "properties": {"a": {**INTEGER, "minimum": 1 - 10**15, "maximum": 3}}},
        ),
        ({"allOf": [{"$ref": "#/$defs/a"}], "title": "t", "$defs": {"a": INTEGER}},
         {"$ref": "#/$defs/a", "title": "t", "$defs": {"a": INTEGER}}),
        ({"$ref": "#/definitions/A%3Cb%3E", "definitions": {"A<b>": INTEGER}},
         {"$ref": "#/$defs/A-3Cb-3E", "$defs": {"A-3Cb-3E": INTEGER}}),
        ({"type": "string", "nullable": True}, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        ({"type": ["string", "null"]}, None),
        ({"enum": ["a", 1], "type": "string"}, {"type": "string", "enum": ["a"]}),
        ({"type": "string", "format": "ipv6"},
         {"type": "string", "format": "ipv6", "pattern": r"^(([0-9a-f]{1,4}[\x3A])){7,7}[0-9a-f]{1,4}$"}),
        ({"type": "array", "items": [INTEGER], "minItems": 1, "maxItems": 1},
         {"type": "array", "minItems": 1, "maxItems": 1, "prefixItems": [INTEGER]}),
        ({"type": "object", "required": ["a"]},
         {"type": "object", "required": ["a"], "properties": {"a": {}}, "additionalProperties": True}),
        ({"title": "T", "type": "object", "properties": {"a-b": INTEGER}, "x-order": 1}, None),
        ({"if": {"required": ["a"]}, "then": {"required": ["b"]}, "properties": {"a": {}, "b": {}}},
         {"anyOf": [{"type": "object", "required": ["a", "b"], "properties": {"a": {}, "b": {}}},
                    {"type": "object", "properties": {"a": {}, "b": {}}}]}),
    ],
)  # fmt: skip
def test_a_schema_is_sent_in_keywords_that_are_generated_by(given: dict[str, Any], sent: dict[str, Any] | None) -> None:
    assert compile_schema(given).constrain() == (given if sent is None else sent)


@pytest.mark.parametrize(
    "document",
    [
        {"allOf": [False]},
        {"type": "integer", "minimum": 2, "maximum": 1},
        {"allOf": [{"type": "string"}, {"type": "null"}]},
        {"required": ["a"], "properties": {"a": False}},
        {"enum": ["a"], "type": "integer"},
        {"minItems": 2, "maxItems": 1},
    ],
)
def test_a_schema_that_no_value_holds_to_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="contradicts itself"):
        compile_schema(document).constrain()


def test_a_schema_that_would_grow_without_end_is_refused() -> None:
    document: dict[str, Any] = {"$ref": "#/$defs/0", "$defs": {"30": {"type": "object"}}}
    for place in range(30):
        part = {"$ref": f"#/$defs/{place + 1}"}
        document["$defs"][str(place)] = {"allOf": [part, {"properties": {str(place): part}}, part]}
    with pytest.raises(UsageError, match="more than 16384 schemas"):
        compile_schema(document).constrain()


@pytest.mark.parametrize(
    "document",
    [
        {"enum": ["a" * 50 + str(place) for place in range(1000)], "pattern": "^(a?){1300}$"},
        {"required": ["a" * 15 + str(place) for place in range(2500)],
         "patternProperties": {f"^(a?){{1000}}{place}$": True for place in range(60)}},
    ],
    ids=["values", "names"],
)  # fmt: skip
def test_the_work_of_writing_a_schema_is_bounded(document: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="takes too long"):
        compile_schema(document).constrain()


def test_what_stands_outside_of_its_definitions_is_checked_and_referred_to() -> None:
    document = {"$ref": "#/components/a", "components": {"a": {"enum": [{"b": 1}, {}], "required": ["b"]}}}
    assert compile_schema(document).constrain() == {"$ref": "#/$defs/a", "$defs": {"a": {"enum": [{"b": 1}]}}}
    with pytest.raises(UsageError, match="#/components/a a minimum"):
        compile_schema({**document, "components": {"a": {"minimum": "x"}}})


def test_a_tool_is_shown_to_the_model_without_lists_of_numbers() -> None:
    share = {"type": "number", "minimum": 0, "maximum": 1}
    code = {"type": "string", "pattern": r"^\d$"}
    parameters = {"type": "object", "properties": {"share": share, "code": code}}
    wanted = {"type": "object", "properties": {"share": share, "code": {"type": "string", "pattern": "^[0-9]$"}}}
    plain: dict[str, Any] = {"name": "f"}
    for tool, key in (({"function": plain}, "parameters"), (plain, "input_schema"), (plain, "")):
        inner = tool.get("function", tool) | ({key: parameters} if key else {})
        found = constrain_tools([{"function": inner} if "function" in tool else inner])[0]
        assert found.get("function", found) == inner | ({key: wanted} if key else {})


def test_whatever_is_accepted_is_written_or_refused_with_a_reason() -> None:
    chance = Random(3)
    accepted = 0
    for _ in range(2000):
        document = choose_schema(chance)
        try:
            if not isinstance(document, dict):
                continue
            compile_schema(document)
            sent = constrain(document)
        except UsageError:
            continue
        accepted += 1
        assert json.dumps(sent)
    assert accepted > 500
