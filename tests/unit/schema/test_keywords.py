"""Each keyword of a JSON schema with values that hold to it and values that do not, and what is said of those."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from llcuda.errors import SchemaMismatchError
from llcuda.schema import compile_schema
from llcuda.schema.validate import KEYWORDS, find_mismatch

# The schema, values that hold, values that do not, and words of the reason for the first of them.
EXAMPLES: list[tuple[dict[str, Any], list[Any], list[Any], str]] = [
    ({"type": "integer"}, [0, -1, 1.0, 10**30], [1.5, "1", True, None], "$: 1.5 is not of type integer"),
    ({"type": "number"}, [0, 1.5], [False, "1", [1]], "not of type number"),
    ({"type": ["string", "null"]}, ["", None], [0, []], "not of type string or null"),
    ({"type": "boolean"}, [True, False], [0, 1, "true"], "0 is not of type boolean"),
    ({"type": "object"}, [{}, {"a": 1}], [[], None], "not of type object"),
    ({"enum": [1, "a", None, [1]]}, [1, 1.0, "a", None, [1.0]], [True, "b", [True], 0], "True is not one of"),
    ({"const": {"a": [0]}}, [{"a": [0]}, {"a": [0.0]}], [{"a": [False]}, {"a": []}, {}], "is not {'a': [0]}"),
    ({"const": False}, [False], [0, None, ""], "0 is not False"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "null"}}}, [None], [0], "$: 0 is not of type null"),
    ({"allOf": [{"minimum": 1}, {"maximum": 3}]}, [1, 3, "x"], [0, 4], "0 is below 1"),
    ({"anyOf": [{"type": "string"}, {"minimum": 5}]}, ["", 5, None], [4], "none of 2 alternatives fits ($: 4 is not"),
    ({"oneOf": [{"minimum": 1}, {"maximum": 3}]}, [0, 4], [2, "x"], "2 of 2 alternatives fit, not one"),
    ({"not": {"type": "string"}}, [1, None], ["x"], "'x' is what it must not be"),
    (
        {"properties": {"a": {"type": "null"}}},
        [{}, {"a": None}, {"b": 1}, []],
        [{"a": 1}],
        "$.a: 1 is not of type null",
    ),
    ({"patternProperties": {"^x": {"type": "null"}}}, [{"x1": None, "a": 1}], [{"x1": 1}], "$.x1: 1 is not"),
    (
        {"properties": {"a": {}}, "patternProperties": {"^x": {}}, "additionalProperties": False},
        [{}, {"a": 1, "x1": 2}, []],
        [{"b": 1}, {"ax": 1}],
        "$: there is no property 'b'",
    ),
    ({"additionalProperties": {"type": "null"}}, [{"a": None}], [{"a": 1}], "$.a: 1 is not of type null"),
    ({"required": ["a", "b"]}, [{"a": 1, "b": 2}, []], [{"a": 1}, {}], "$: b is missing"),
    ({"minProperties": 1}, [{"a": 1}, 0], [{}], "{} has fewer properties than 1"),
    ({"maxProperties": 1}, [{}, {"a": 1}], [{"a": 1, "b": 2}], "has more properties than 1"),
    (
        {"prefixItems": [{"type": "null"}, {"type": "string"}]},
        [[], [None], [None, "a", 5]],
        [[None, 1]],
        "$[1]: 1 is not",
    ),
    ({"items": {"type": "null"}}, [[], [None], {}], [[None, 0]], "$[1]: 0 is not of type null"),
    ({"prefixItems": [{}], "items": False}, [[], [1]], [[1, 2]], "$[1]: nothing is allowed here"),
    ({"minItems": 1}, [[0], {}], [[]], "[] has fewer items than 1"),
    ({"maxItems": 1}, [[], [0]], [[0, 1]], "has more items than 1"),
    (
        {"uniqueItems": True},
        [[], [1, True, "1"], [{"a": 1}, {"a": 2}]],
        [[1, 1.0], [[1], [1]]],
        "an item is there twice",
    ),
    ({"uniqueItems": False}, [[1, 1]], [], ""),
    ({"minLength": 2}, ["ab", "🎈🎈", 1], ["a", "🎈"], "'a' is shorter than 2"),
    ({"maxLength": 1}, ["", "🎈"], ["ab"], "'ab' is longer than 1"),
    ({"pattern": "b+$"}, ["ab", "bb", 1], ["ba"], "'ba' does not match b+$"),
    ({"minimum": 1.5}, [1.5, 2, "x"], [1], "1 is below 1.5"),
    ({"maximum": 1}, [1, 0.5], [1.5], "1.5 is above 1"),
    ({"exclusiveMinimum": 1}, [1.1], [1, 1.0], "1 is not above 1"),
    ({"exclusiveMaximum": 1}, [0.9], [1], "1 is not below 1"),
    ({"propertyNames": {"enum": ["a"]}}, [{}, {"a": 1}, 5], [{"b": 1}], "the name of a property does not fit"),
    ({"dependentRequired": {"a": ["b"]}}, [{}, {"b": 1}, {"a": 1, "b": 1}], [{"a": 1}], "b is missing"),
    ({"dependentSchemas": {"a": {"required": ["b"]}}}, [{}, {"a": 1, "b": 1}, 1], [{"a": 1}], "b is missing"),
    (
        {"if": {"minimum": 5}, "then": {"multipleOf": 2}, "else": {"multipleOf": 3}},
        [6, 3, 8],
        [7, 4],
        "7 is not a multiple of 2",
    ),
    (
        {"contains": {"type": "null"}, "minContains": 2, "maxContains": 3},
        [[None, None, 1], 5],
        [[None], [None] * 4, []],
        "1 items are as they must be",
    ),
    (
        {"allOf": [{"properties": {"a": {}}}], "patternProperties": {"^x": {}}, "unevaluatedProperties": False},
        [{}, {"a": 1, "x": 2}, 5],
        [{"b": 1}],
        "nothing is allowed here",
    ),
    (
        {"prefixItems": [{}], "anyOf": [{"contains": {"const": 1}}, {}], "unevaluatedItems": {"type": "null"}},
        [[5, None, 1], [], [5]],
        [[5, 6]],
        "6 is not of type null",
    ),
    ({"multipleOf": 3}, [0, -3, 6.0, "x"], [1, 4.5], "1 is not a multiple of 3"),
]


@pytest.mark.parametrize(("schema", "holding", "failing", "words"), EXAMPLES, ids=lambda value: str(value)[:40])
def test_a_keyword_means_what_the_draft_says(
    schema: dict[str, Any], holding: list[Any], *, failing: list[Any], words: str
) -> None:
    compile_schema(schema)
    theirs = Draft202012Validator(schema)
    for value in holding:
        assert find_mismatch(value, schema) is None, value
        assert theirs.is_valid(value), value
    reasons = [find_mismatch(value, schema) for value in failing]
    assert None not in reasons
    assert not any(theirs.is_valid(value) for value in failing)
    assert not reasons or words in str(reasons[0])


@pytest.mark.parametrize(
    ("only", "value", "holds"),
    [(10**30, 1e30, True), (2**53 + 1, 2.0**53, False), (10**400, 10**400, True), (10**400, 10**401, False)],
)
def test_a_number_kept_in_part_is_what_the_engine_writes_of_it(only: int, value: float, *, holds: bool) -> None:
    assert (find_mismatch([value], {"prefixItems": [{"enum": [only]}]}) is None) is holds
    assert (find_mismatch(value, {"const": only}) is None) is holds


def test_every_keyword_has_an_example() -> None:
    examples = [*EXAMPLES, *((schema, *rest, "") for schema, *rest in EARLIER)]
    assert {keyword for schema, *_ in examples for keyword in schema} - {"$defs"} == set(KEYWORDS)


# What drafts before that of 2020 and OpenAPI 3.0 have, and the validator that knows it.
EARLIER: list[tuple[dict[str, Any], list[Any], list[Any]]] = [
    ({"items": [{"type": "null"}], "additionalItems": {"type": "string"}}, [[], [None, "a"]], [[1], [None, 1]]),
    ({"items": [], "additionalItems": False}, [[]], [[1]]),
    ({"minimum": 1, "exclusiveMinimum": True}, [2, 1.5], [1, 0]),
    ({"maximum": 1, "exclusiveMaximum": False}, [1], [2]),
    ({"maximum": 1, "exclusiveMaximum": True}, [0], [1, 2]),
    ({"dependencies": {"a": ["b"], "c": {"required": ["d"]}}}, [{}, {"a": 1, "b": 1}], [{"a": 1}, {"c": 1}]),
    ({"type": "string", "nullable": True}, [None, "a"], [1]),
    ({"type": "string", "nullable": False}, ["a"], [None]),
]


@pytest.mark.parametrize(("schema", "holding", "failing"), EARLIER, ids=str)
def test_a_keyword_of_an_earlier_draft_means_what_it_meant(
    schema: dict[str, Any], holding: list[Any], failing: list[Any]
) -> None:
    compile_schema(schema)
    assert [find_mismatch(value, schema) for value in holding] == [None] * len(holding)
    assert None not in [find_mismatch(value, schema) for value in failing]


def test_an_anchor_is_found_wherever_it_is() -> None:
    document = {"$ref": "#there", "$defs": {"a": True, "b": {"$anchor": "there", "const": 1}}}
    assert compile_schema(document).parse("1") == 1
    assert find_mismatch(2, document) == "$: 2 is not 1"


@pytest.mark.parametrize(
    "annotation",
    [
        {"title": "x"}, {"description": "x"}, {"default": 1}, {"examples": [1]}, {"$comment": "x"},
        {"$schema": "https://json-schema.org/draft/2020-12/schema"}, {"$id": "https://example.org/x"},
        {"format": "date"}, {"readOnly": True}, {"writeOnly": False}, {"deprecated": True},
        {"discriminator": {"propertyName": "kind"}}, {"definitions": {"a": {}}},
    ],
)  # fmt: skip
def test_what_says_nothing_about_values_is_allowed_and_ignored(annotation: dict[str, Any]) -> None:
    schema = compile_schema({"type": "integer", **annotation})
    assert schema.parse("4") == 4
    assert schema.document == {"type": "integer", **annotation}
    with pytest.raises(SchemaMismatchError):
        schema.parse('"x"')


def test_a_long_value_is_not_repeated_whole_in_the_reason() -> None:
    reason = find_mismatch("x" * 10_000, {"type": "integer"})
    assert reason is not None
    assert len(reason) < 120


@pytest.mark.parametrize("value", [True, False])
def test_a_schema_can_be_a_boolean_inside_of_another(value: bool) -> None:  # noqa: FBT001
    schema = compile_schema({"properties": {"a": value}})
    assert schema.parse("{}") == {}
    assert (find_mismatch({"a": 1}, schema.document) is None) == value


def test_a_name_in_a_reference_can_have_any_character() -> None:
    document = {"$ref": "#/$defs/a~1b~0c%20d", "$defs": {"a/b~c d": {"const": 1}}}
    assert compile_schema(document).parse("1") == 1
    assert find_mismatch(2, document) == "$: 2 is not 1"
