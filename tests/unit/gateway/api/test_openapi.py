"""The OpenAPI document, held against the tables and the checks that it is made of."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.admin.offload_changes import parse_choice
from llcuda.gateway.api.field_tables import FIELDS
from llcuda.gateway.api.fields import check_fields
from llcuda.gateway.api.openapi import describe_body, make_document
from llcuda.gateway.api.openapi_answers import OWN_BODIES
from llcuda.gateway.http.routes import ALIASES, PREFIXES, ROUTES, Who

if TYPE_CHECKING:
    from llcuda.gateway.http.routes import Route

DOCUMENT = make_document()
QUESTION = {"messages": [{"role": "user", "content": "Hi"}]}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
TOOL = {"type": "function", "function": {"name": "f"}}

# Every field of every endpoint is tried with each.
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, 1.0, -1, 2, 16, 17, 65, 101, 4096, 2**31 - 1, 2**31, 2**32, 0.5, 1.5, -0.5, 2.5, 100000.5,
    1e300, "", "x", "auto", "none", "any", "required", "content", "base64", "x" * 1025, [], {}, [1], [-1], ["a"],
    [1, "a"], [[1]], [["a"], "b"], [True], [None], [{}], [[]], {"a": 1}, {"a": "b"}, {"a": False}, [["a", 1]],
    [[1, False]], [["a", 1, 2]], [["a", "b"]], ["x" * 2000], ["a"] * 33, ["a"] * 65, [{}] * 129,
    {str(number): 0 for number in range(65)}, {"type": "auto"}, {"type": "tool"}, {"type": "tool", "name": "f"},
    {"type": "function"}, {"type": "function", "name": "f"}, {"type": "function", "function": {"name": "f"}},
    {"type": "function", "function": {}, "name": "f"}, {"type": "function", "function": 1, "name": "f"},
    {"type": "text"}, {"type": "json_object"}, {"type": "json_schema"}, {"type": "json_object", "schema": {}},
    {"type": "json_object", "schema": 1}, {"type": "x"}, {"format": None}, {"format": 1},
    {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}},
    {"type": "json_schema", "json_schema": {}}, {"format": {"type": "text"}}, {"format": {"type": "json_schema"}},
    {"format": {"type": "json_schema", "schema": {}}}, [TOOL], [{"function": None}], [{"function": 1}],
    [{"content": "x"}], [{"content": None}], [{"content": 1}], [{"content": [PICTURE]}], [{"content": [1]}],
    [PICTURE], {"prompt_string": "x"}, {"prompt_string": 1}, {"content": []},
    {"prompt_string": "x", "multimodal_data": {}}, {"prompt_string": "x", "multimodal_data": ["http://x"]},
    {"prompt_string": "x", "multimodal_data": ["file:x"]}, {"prompt_string": "x", "multimodal_data": ["data:x:y"]},
    {"prompt_string": "x", "multimodal_data": ["AA=="]}, {"prompt_string": "x", "multimodal_data": [1]}, ["text"],
)  # fmt: skip


def is_taken(endpoint: str, body: dict[str, Any]) -> bool:
    try:
        check_fields(endpoint, body)
    except RefusedError:
        return False
    return True


def test_it_is_whole_and_refers_to_nothing_that_is_not_there() -> None:
    text = json.dumps(DOCUMENT)
    assert DOCUMENT["openapi"] == "3.1.0"
    paths = {path for _, path in ROUTES} | ALIASES.keys() | {"/v1/models/{model}", "/chat/{file}"}
    assert DOCUMENT["paths"].keys() == paths
    for line in text.split('"$ref": "#/')[1:]:
        place: Any = DOCUMENT
        for step in line.partition('"')[0].split("/"):
            place = place[step]
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("route", [*ROUTES.values(), *PREFIXES], ids=lambda route: f"{route.method} {route.path}")
def test_each_address_says_who_may_ask_and_how_a_refusal_looks(route: Route) -> None:
    name = {"/v1/models/": "{model}", "/chat/": "{file}"}.get(route.path, "")
    operation = DOCUMENT["paths"][route.path + name][route.method.lower()]
    assert ("401" in operation["responses"]) == (route.who is not Who.PUBLIC)
    assert (operation.get("security") == []) == (route.who is Who.PUBLIC)
    assert ("; for administrators" in operation["summary"]) == (route.who is Who.ADMIN)
    assert {"400", "413", "431", "500"} <= operation["responses"].keys()
    assert ("requestBody" in operation) == (route.endpoint in {*FIELDS, *OWN_BODIES})


def test_no_two_operations_have_one_name() -> None:
    names = [
        operation["operationId"]
        for methods in DOCUMENT["paths"].values()
        for method, operation in methods.items()
        if method != "parameters"
    ]
    assert len(set(names)) == len(names)


def test_those_that_generate_can_stream() -> None:
    streaming = [
        path
        for path, methods in DOCUMENT["paths"].items()
        if "text/event-stream" in methods.get("post", {}).get("responses", {}).get("200", {}).get("content", {})
    ]
    assert {"/v1/chat/completions", "/v1/messages", "/v1/responses", "/infill"} <= set(streaming)
    assert "/v1/embeddings" not in streaming


@pytest.mark.parametrize("endpoint", FIELDS)
def test_a_value_is_described_where_the_check_takes_it_and_nowhere_else(endpoint: str) -> None:
    schema = describe_body(endpoint)
    body = {name: good for name, good in _REQUIRED.items() if name in schema.get("required", ())}
    assert jsonschema.Draft202012Validator(schema).is_valid(body)
    assert is_taken(endpoint, body)
    differences = []
    for name, wanted in schema["properties"].items():
        validator = jsonschema.Draft202012Validator(wanted)
        for value in VALUES:
            taken = is_taken(endpoint, {**body, name: value})
            if name == "json_schema" and type(value) is dict:
                continue  # whether it is a schema that can be held to is not described
            if validator.is_valid(value) != taken:
                differences.append((name, value, taken))
    assert differences == []


_REQUIRED: dict[str, Any] = {
    "messages": QUESTION["messages"], "prompt": "x", "input": "x", "input_prefix": "x", "input_suffix": "x",
    "query": "x", "content": "x", "tokens": [1], "model": "demo",
}  # fmt: skip


def test_what_is_not_known_is_left_out_and_described_so() -> None:
    for endpoint in FIELDS:
        assert "additionalProperties" not in describe_body(endpoint)


def test_a_schema_beside_a_grammar_is_described_as_it_is_checked() -> None:
    validator = jsonschema.Draft202012Validator(describe_body("chat"))
    tried: tuple[dict[str, Any], ...] = (
        {"grammar": "x"},
        {"json_schema": {}},
        {"grammar": None, "json_schema": {}},
        {"grammar": "x", "json_schema": None},
    )
    for more in tried:
        body = {**QUESTION, **more}
        assert validator.is_valid(body) == is_taken("chat", body)


@pytest.mark.parametrize("offload", ["full", "mixed", "cpu", "auto", "x", None])
@pytest.mark.parametrize("layers", [None, 0, 1, 4096, 4097, True, "1"])
def test_the_choice_of_a_place_is_described_as_it_is_parsed(offload: str | None, layers: Any) -> None:
    body = {"model": "demo", "offload": offload, "gpu_layers": layers}
    try:
        parse_choice(json.dumps(body).encode())
    except RefusedError:
        taken = False
    else:
        taken = True
    assert jsonschema.Draft202012Validator(DOCUMENT["components"]["schemas"]["offload"]).is_valid(body) == taken

