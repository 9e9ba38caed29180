"""What schemas, patterns and grammars may cost llama-server, counted in ways."""

from __future__ import annotations

from functools import reduce
from typing import Any

import pytest

from llcuda.errors import UsageError
from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.api import field_costs as costs
from llcuda.gateway.api.field_costs import SchemaCosts, check_grammar_cost
from llcuda.gateway.api.field_schemas import SCHEMA
from llcuda.gateway.api.fields import check_fields

MESSAGES = [{"role": "user", "content": "Hello"}]
OBJECT: dict[str, Any] = {"type": "object"}
UUID = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"


def properties(count: int, *, required: bool = False, **more: Any) -> dict[str, Any]:
    names = [f"name_{place}" for place in range(count)]
    found = {"type": "object", "properties": {name: {"type": "string", **more} for name in names}}
    return {**found, **({"required": names} if required else {}), "additionalProperties": False}


def alternatives(count: int) -> dict[str, Any]:
    return {"anyOf": [{"const": place} for place in range(count)]}


REAL: dict[str, dict[str, Any]] = {
    "100 optional properties": properties(100),
    "1000 required properties": properties(1000, required=True),
    "255 characters in each of 100": properties(100, maxLength=255),
    "600 time zones": {"enum": [f"Zone {place}" for place in range(600)]},
    "ten fields of 250 countries": {
        "type": "object",
        "properties": {f"c{place}": {"$ref": "#/$defs/Country"} for place in range(10)},
        "$defs": {"Country": {"enum": [f"Country {place}" for place in range(250)]}},
    },
    "a union of 200 models": {"oneOf": [properties(5, required=True) for _ in range(200)]},
    "a list in itself": {"$defs": {"Node": {"properties": {"next": {"$ref": "#/$defs/Node"}}}}, "$ref": "#/$defs/Node"},
    "pydantic 1": {"allOf": [{"$ref": "#/definitions/A"}], "definitions": {"A": properties(5)}},
    "64 patterns": {"anyOf": [{"type": "string", "pattern": f"^{place}{UUID[1:]}"} for place in range(64)]},
}


@pytest.mark.parametrize("document", REAL.values(), ids=REAL)
def test_what_generators_of_schemas_write_is_taken(document: dict[str, Any]) -> None:
    SCHEMA.check("json_schema", document)


def test_64_tools_of_20_parameters_are_taken() -> None:
    tools = [
        {"type": "function", "function": {"name": f"f{place}", "parameters": properties(20, maxLength=80)}}
        for place in range(64)
    ]
    check_fields("chat", {"messages": MESSAGES, "tools": tools})
    check_fields("messages", {"messages": MESSAGES, "tools": [{"name": "f", "input_schema": properties(20)}] * 64})
    check_fields("responses", {"input": "a", "tools": [{"type": "function", "name": "f", "parameters": properties(9)}]})


TOO_MUCH: dict[str, tuple[dict[str, Any], str]] = {
    "an enum": ({"enum": list(range(costs.MAX_WAYS + 1))}, "# has 4097 alternatives, 8 for each object or list"),
    "an enum inside": ({"items": {"enum": list(range(5000))}}, "#/items has 5000"),
    "alternatives": (alternatives(costs.MAX_WAYS + 1), "# has 4097"),
    "alternatives of alternatives": ({"anyOf": [alternatives(2100), alternatives(2100)]}, "# has 4200"),
    "alternatives that are objects": ({"oneOf": [properties(1)] * 513}, "# has 4104"),
    "alternatives by reference": ({"anyOf": [{"$ref": "#/$defs/A"}] * 3, "$defs": {"A": alternatives(1500)}}, "4500"),
    "optional properties": (properties(costs.MAX_OPTIONAL + 1), "#/properties has 257 that are not required"),
    "optional properties in all": ({"prefixItems": [properties(250)] * 3}, "187500 pairs that are not required"),
    "a long name": ({"properties": {"a" * 257: {}}}, "#/properties has a name of 257 characters, and may have 256"),
    "a long reference": ({"properties": {"a": {"$ref": "#/" + "/" * 1100}}}, "a $ref has 1102 characters"),
    "repetitions": ({"prefixItems": [{"type": "string", "maxLength": 2000}] * 70}, "132000 repetitions"),
    "types that double": (
        reduce(lambda inner, _: {"type": ["object"] * 2, "properties": {"a": inner}}, range(20), OBJECT), "16384"
    ),
    "a pattern": ({"pattern": "^" + "a?" * 1025 + "$"}, "of ?, * and {} in one rule"),
}  # fmt: skip


@pytest.mark.parametrize(("document", "said"), TOO_MUCH.values(), ids=TOO_MUCH)
def test_what_llama_server_would_take_long_for_is_refused_with_the_place_the_count_and_the_limit(
    document: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        SchemaCosts().add(document)
    assert said in f"{caught.value.message}. {caught.value.hint}"
    for body in (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": document}}]},
        {"tools": [{"name": "f", "input_schema": document}]},
    ):
        with pytest.raises(RefusedError) as refused:
            check_fields("chat", {"messages": MESSAGES, **body})
        assert refused.value.code == "invalid_schema"
        assert refused.value.param in {"tools[0].function.parameters", "tools[0].input_schema"}
    with pytest.raises(RefusedError) as refused:
        check_fields("completion", {"prompt": "a", "json_schema": {"$defs": {}, **document}})
    assert refused.value.code == "invalid_schema"
    assert len(refused.value.message) < 500


def test_the_tools_of_a_request_are_counted_together() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": properties(100)}}
    check_fields("chat", {"messages": MESSAGES, "tools": [tool] * 13})
    with pytest.raises(RefusedError, match=r"tools\[13\].*140000 pairs"):
        check_fields("chat", {"messages": MESSAGES, "tools": [tool] * 14})


@pytest.mark.parametrize(
    "parameters",
    [{"enum": 5, "properties": [1], "allOf": {}, "required": [[]], "type": [7, {}]}, {"$ref": "#/x"}, {"$ref": 5},
     {"maxItems": "x", "anyOf": [5, None]}],
)  # fmt: skip
def test_tools_whose_schema_is_none_are_left_to_llama_server(parameters: dict[str, Any]) -> None:
    SchemaCosts().add(parameters)


@pytest.mark.parametrize(
    "grammar",
    [
        'root ::= "a"', "", 'root ::= ("a" | "b")* # a "comment" ((((\n', "root ::= " + " | ".join(['"x"'] * 4096),
        "\n".join(f'r{place} ::= "a"? [b-d]* "c"{{1,20}}' for place in range(500)), 'root ::= "' + "?" * 5000 + '"',
        "root ::= [" + "?" * 5000 + "]",
    ],
)  # fmt: skip
def test_a_grammar_of_some_size_is_taken(grammar: str) -> None:
    check_grammar_cost(grammar)


@pytest.mark.parametrize(
    ("grammar", "said"),
    [
        ("root ::= " + '"a"? ' * 2000, "it has 1025 of ?, * and {} in one rule, and may have 1024"),
        ("root ::= " + '"a" | ' * 4097, "it has 4097 alternatives at one place, and may have 4096"),
        ("root ::= " + "(" * 65, "it has 65 levels of brackets, and may have 64"),
        ('root ::= "' + "a" * 1000 + '"{2000}', "characters with its repetitions written out"),
        ('root ::= "a"{' + "1" * 5000 + "}", "a repetition of 5000 digits, and may have 9"),
    ],
)
def test_a_grammar_that_costs_too_much_is_refused(grammar: str, said: str) -> None:
    with pytest.raises(RefusedError) as caught:
        check_fields("completion", {"prompt": "a", "grammar": grammar})
    assert said in caught.value.message
    assert (caught.value.status, caught.value.param) == (400, "grammar")
