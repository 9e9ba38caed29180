"""Answers held against JSON schemas: our validator beside the jsonschema package."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from llcuda.errors import SchemaMismatchError, UsageError
from llcuda.schema import compile_schema
from llcuda.schema.validate import KEYWORDS, find_mismatch

NAMES = st.sampled_from(["a", "b", "ab", "c1"])
SCALARS = (
    st.none() | st.booleans() | st.integers(-4, 4) | st.sampled_from([0.0, 1.0, 1.5, -2.0, 1e300])
    | st.sampled_from(["", "a", "ab", "é🎈", "12"])
)  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=8
)
COUNTS = st.integers(0, 3)
PATTERNS = st.sampled_from(["a", "^a", "b$", "^[0-9]+$", "^$", "."])
TYPES = st.sampled_from(["array", "boolean", "integer", "null", "number", "object", "string"])


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(inner, min_size=1, max_size=3)
    return st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(NAMES, inner, max_size=3),
            "patternProperties": st.dictionaries(PATTERNS, inner, max_size=2),
            "additionalProperties": inner,
            "prefixItems": some,
            "items": inner,
            "allOf": some,
            "anyOf": some,
            "oneOf": some,
            "not": inner,
        },
    )


PLAIN = st.fixed_dictionaries(
    {},
    optional={
        "type": TYPES | st.lists(TYPES, min_size=1, max_size=3, unique=True),
        "enum": st.lists(VALUES, min_size=1, max_size=3),
        "const": VALUES,
        "required": st.lists(NAMES, max_size=2, unique=True),
        "minProperties": COUNTS,
        "maxProperties": COUNTS,
        "minItems": COUNTS,
        "maxItems": COUNTS,
        "uniqueItems": st.booleans(),
        "minLength": COUNTS,
        "maxLength": COUNTS,
        "pattern": PATTERNS,
        "minimum": st.integers(-3, 3),
        "maximum": st.sampled_from([-1, 0, 1.5, 3]),
        "exclusiveMinimum": st.integers(-3, 3),
        "exclusiveMaximum": st.sampled_from([-1, 0, 1.5, 3]),
        "multipleOf": st.integers(1, 3),
        "title": st.just("x"),
        "format": st.just("date"),
    },
)
REFERENCES = st.sampled_from([{"$ref": "#/$defs/leaf"}, {"$ref": "#/$defs/tree"}, {"$ref": "#/$defs/a~1b"}])
SCHEMAS = st.recursive(PLAIN | st.booleans() | REFERENCES, _nested, max_leaves=6)
DEFINITIONS = {
    "leaf": {"type": ["integer", "string"], "maxLength": 2},
    "tree": {"anyOf": [{"$ref": "#/$defs/leaf"}, {"type": "array", "items": {"$ref": "#/$defs/tree"}}]},
    "a/b": {"type": "null"},
}


@settings(max_examples=80, deadline=None)  # 20,000 by hand agreed too
@given(SCHEMAS, VALUES)
def test_a_value_holds_to_a_schema_exactly_when_jsonschema_says_so(schema: Any, value: Any) -> None:
    schema = schema if isinstance(schema, dict) else {"allOf": [schema]}
    document = {**schema, "$defs": DEFINITIONS}
    compiled = compile_schema(document)
    expected = Draft202012Validator(document).is_valid(value)
    assert (find_mismatch(value, document) is None) == expected
    if expected:
        assert compiled.parse(json.dumps(value)) == value
    else:
        with pytest.raises(SchemaMismatchError):
            compiled.parse(json.dumps(value))


@pytest.mark.parametrize("keyword", sorted(KEYWORDS))
def test_every_keyword_has_its_argument_checked(keyword: str) -> None:
    wrong: list[Any] = [None, -1, "nonsense(", [], {"a": 1}, 1.5]
    refused = [argument for argument in wrong if not is_accepted({keyword: argument})]
    assert refused or keyword == "const"


def is_accepted(document: dict[str, Any]) -> bool:
    try:
        compile_schema(document)
    except UsageError:
        return False
    return True


@pytest.mark.parametrize("keyword", ["$dynamicRef", "$recursiveRef", "$dynamicAnchor", "minLenght", "propertys"])
def test_a_keyword_that_cannot_be_held_to_is_refused_wherever_it_is(keyword: str) -> None:
    documents: list[Any] = [
        {keyword: {}},
        {"properties": {"a": {keyword: {}}}},
        {"items": {"anyOf": [{"type": "null"}, {keyword: {}}]}},
        {"if": {"contains": {keyword: {}}}},
        {"$defs": {"unused": {keyword: {}}}},
    ]
    for document in documents:
        with pytest.raises(UsageError, match="not supported"):
            compile_schema(document)


@pytest.mark.parametrize("keyword", ["x-order", "x", "enumNames", "propertyOrdering", "markdownDescription", "example"])
def test_a_keyword_of_somebody_elses_says_nothing(keyword: str) -> None:
    assert compile_schema({"type": "integer", keyword: {"a": 1}}).parse("4") == 4


def test_a_misspelt_keyword_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(UsageError, match="#/properties/a") as caught:
        compile_schema({"properties": {"a": {"minimun": 1}}})
    assert "minimum" in caught.value.hint


@pytest.mark.parametrize(
    "document",
    [
        {"$ref": "#/$defs/missing"},
        {"$ref": "http://example.org/schema"},
        {"$ref": "other.json"},
        {"$ref": "#anchor"},
        {"$ref": "#/anyOf/5", "anyOf": [{}]},
        {"$ref": "#"},
        {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
        {"$defs": {"a": {"not": {"$ref": "#/$defs/b"}}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"},
        {"properties": {"a": {"$ref": "#/properties/a"}}},
        {"properties": {"a": {"$id": "other"}}},
        {"items": [{}, 1]},
        {"$defs": []},
        {"type": "text"},
        {"enum": []},
        {"pattern": "("},
        {"multipleOf": 0},
        {"minimum": float("nan")},
    ],
)
def test_a_schema_that_cannot_be_followed_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        compile_schema(document)


def test_a_schema_nested_without_end_is_refused() -> None:
    document: dict[str, Any] = {}
    for _ in range(5000):
        document = {"items": document}
    with pytest.raises(UsageError, match="nested"):
        compile_schema(document)


def test_a_value_nested_without_end_does_not_hold() -> None:
    schema = compile_schema({"items": {"$ref": "#"}})
    for depth in (500, 100_000):
        with pytest.raises(SchemaMismatchError, match=r"nested|JSON"):
            schema.parse("[" * depth + "]" * depth)


def test_a_schema_whose_work_doubles_with_each_level_is_given_up() -> None:
    either = [{"type": "array", "items": {"$ref": "#"}, "minItems": 1}, {"type": "array", "items": {"$ref": "#"}}]
    schema = compile_schema({"anyOf": [*either, {"const": 0}]})
    with pytest.raises(SchemaMismatchError, match="nested"):
        schema.parse("[" * 60 + "1" + "]" * 60)


def test_what_was_not_checked_to_its_end_is_no_reason_to_accept() -> None:
    schema = compile_schema({"not": {"$ref": "#/$defs/deep"}, "$defs": {"deep": {"items": {"$ref": "#/$defs/deep"}}}})
    with pytest.raises(SchemaMismatchError, match="nested"):
        schema.parse("[" * 300 + "]" * 300)


@pytest.mark.parametrize(
    "text", ["", "{", '{"a": 1', "{'a': 1}", "NaN", "[Infinity]", "1 2", "```json\n1\n```", "tru", "1" * 9999]
)
def test_a_text_that_is_not_json_is_no_answer(text: str) -> None:
    with pytest.raises(SchemaMismatchError) as caught:
        compile_schema({}).parse(text)
    assert caught.value.text == text


def test_white_space_around_the_json_is_allowed() -> None:
    assert compile_schema({"type": "integer"}).parse("\n 4 \n") == 4


def test_a_mismatch_says_where_and_what() -> None:
    schema = compile_schema({"properties": {"names": {"items": {"type": "string"}}}})
    with pytest.raises(SchemaMismatchError, match=r"\$\.names\[1\]: 5 is not of type string"):
        schema.parse('{"names": ["a", 5]}')


def test_multiples_are_counted_in_decimal_digits() -> None:
    schema = compile_schema({"multipleOf": 0.1})
    assert schema.parse("0.3") == 0.3
    with pytest.raises(SchemaMismatchError):
        schema.parse("0.35")


@pytest.mark.parametrize("text", ["1e999", "-1e999", "[1e400]", "1" * 5000, "[" * 100_000])
def test_a_number_or_a_depth_beyond_python_is_a_mismatch(text: str) -> None:
    for document in ({"type": "integer"}, {"type": "number", "multipleOf": 2}, {}):
        with pytest.raises(SchemaMismatchError, match="it is not JSON"):
            compile_schema(document).parse(text)


def test_a_whole_number_as_a_float_is_an_integer() -> None:
    assert find_mismatch(1e300, {"type": "integer"}) is None
    assert find_mismatch(1.5, {"type": "integer"}) is not None


@pytest.mark.parametrize(
    ("document", "value"),
    [
        ({"items": {"enum": list(range(20_000))}}, [20_001] * 100 + [0]),
        ({"patternProperties": {f"^{place}$": {} for place in range(2000)}}, {str(place): 1 for place in range(2000)}),
        ({"patternProperties": {f"^{place}$": {} for place in range(2000)}, "additionalProperties": True},
         {str(place): 1 for place in range(2000)}),
        ({"allOf": [{"pattern": "^a*$"}] * 2000}, "a" * 20_000),
    ],
)  # fmt: skip
def test_work_within_one_keyword_is_counted_as_well(document: dict[str, Any], value: Any) -> None:
    if "items" in document:
        document, value = {"items": {"items": document["items"]}}, [[0] * 30] * 2
    assert find_mismatch(value, document) == "it is nested too deeply to be checked"
