"""Schemas as they are held to: by the grammar that llama-server makes, in the answer, or not at all."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from llcuda.schema.validate import KEYWORDS, find_mismatch
from tests.inputs.grammar_texts import Grammar
from tests.inputs.keyword_schemas import KEYWORD_SCHEMAS
from tests.inputs.schema_corpus import make_corpus
from tests.places import DOCS
from tests.process.gateway.clients.gateways import KEY, MESSAGES, QUESTION, gateway

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = DOCS / "python.md"


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {KEY}"}
    with (
        gateway(workers=1) as running,
        httpx.Client(base_url=running.url, headers=headers, trust_env=False, timeout=60) as client,
    ):
        yield client


def write_texts(client: httpx.Client, document: dict[str, Any], *, count: int = 200) -> list[str]:
    """Return texts of the grammar that llama-server generates by for a schema."""
    answer = client.post("/completion", json={"prompt": "a", "n_predict": 1, "json_schema": document})
    assert answer.status_code == 200, answer.text
    grammar, chance, texts = Grammar(answer.json()["generation_settings"]["grammar"]), Random(5), []
    for _ in range(count):
        with suppress(RecursionError):
            texts.append(grammar.write(chance))
    assert texts
    return texts


def tell_standing(client: httpx.Client, document: dict[str, Any]) -> str:
    """Tell whether a schema is refused, or held to by the grammar, or checked in the answer."""
    body = {"messages": MESSAGES, "response_format": {"type": "json_schema", "json_schema": {"schema": document}}}
    answer = client.post("/v1/chat/completions", json={**body, "max_tokens": 1})
    if answer.status_code == 400:
        assert answer.json()["error"]["param"] == "response_format.json_schema.schema"
        return "refused"
    assert answer.status_code == 200, answer.text
    values = map(json.loads, write_texts(client, document))
    return "checked" if any(find_mismatch(value, document) for value in values) else "constrained"


def test_the_docs_say_of_each_keyword_how_it_is_held_to(client: httpx.Client) -> None:
    assert set(KEYWORDS) - {"then", "else"} <= set(KEYWORD_SCHEMAS)
    found: dict[str, list[str]] = {"constrained": [], "checked": [], "refused": []}
    for keyword, document in KEYWORD_SCHEMAS.items():
        found[tell_standing(client, document)].append(keyword)
    rows = re.findall(r"^\| (constrained|checked|refused) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    said = {standing: re.findall(r"`([$\w]+)`", words) for standing, words in rows}
    assert said == found


@pytest.mark.parametrize(
    "document",
    [
        {"type": "string", "pattern": r"^\d{4}$"},
        {"type": "string", "pattern": "^.*$"},
        {"type": "string", "pattern": "^a.*$"},
        {"type": "string", "pattern": r"^[^@]+@[^@]+\.[^@]+$"},
        {"type": "string", "pattern": "b", "maxLength": 9},
        {"type": "number", "minimum": 0, "maximum": 1},
        {"properties": {"v": True}, "required": ["v"]},
        {"type": "object", "properties": {"": {"type": "null"}, "v": {"type": "integer"}}, "required": ["v"]},
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_asked_for_comes_whole_and_streamed(
    document: dict[str, Any],
    stream: bool,  # noqa: FBT001
    client: httpx.Client,
) -> None:
    shape = {"type": "json_schema", "json_schema": {"schema": document}}
    body = {"messages": MESSAGES, "response_format": shape, "max_tokens": 60, "temperature": 0, "stream": stream}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert "error" not in answer.text
    if stream:
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        choices = [choice for event in events for choice in event["choices"]]
        text = "".join(choice["delta"].get("content") or "" for choice in choices)
        reason = [choice["finish_reason"] for choice in choices][-1]
    else:
        choice = answer.json()["choices"][0]
        text, reason = choice["message"]["content"], choice["finish_reason"]
    assert reason == "length" or find_mismatch(json.loads(text), document) is None


def test_a_stream_whose_text_does_not_hold_ends_with_an_error_instead_of_its_end(client: httpx.Client) -> None:
    document = {"type": "array", "items": {"const": 1}, "minItems": 2, "maxItems": 2, "uniqueItems": True}
    shape = {"type": "json_schema", "json_schema": {"schema": document}}
    chat = {"messages": MESSAGES, "response_format": shape, "stream": True, "max_tokens": 80}
    plain = {"prompt": "a", "json_schema": document, "stream": True, "max_tokens": 80}
    asked = (("/v1/chat/completions", chat), ("/v1/completions", plain), ("/completion", plain))
    texts = [client.post(path, json=body).text for path, body in asked]
    ended = [text for text in texts if '"finish_reason":"length"' not in text and '"stop_type":"limit"' not in text]
    assert ended
    for text in ended:
        assert "[DONE]" not in text
        assert text.count("schema_mismatch") == 1
        assert "an item is there twice" in text


def test_a_tool_with_any_of_them_is_no_error_of_the_servers(client: httpx.Client) -> None:
    for keyword, document in KEYWORD_SCHEMAS.items():
        parameters = {"type": "object", "properties": {"value": document}, "$defs": document.get("$defs", {})}
        tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
        body = {"messages": MESSAGES, "tools": [tool], "tool_choice": "required", "max_tokens": 4}
        answer = client.post("/v1/chat/completions", json=body)
        assert answer.status_code in {200, 400}, (keyword, answer.text)


@pytest.mark.parametrize("generator", ["bfcl", "fastapi", "pydantic", "typescript", "zod"])
def test_what_others_write_is_generated_within_or_checked_or_refused_with_its_reason(
    generator: str, client: httpx.Client
) -> None:
    (checked,) = re.findall(r"^\| checked \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    # What the docs say is constrained in part: what a pattern looks ahead for, names, and bounds of numbers.
    bounds = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
    in_part = [*re.findall(r"`(\w+)`", checked), "propertyNames", *bounds]
    for name, document in make_corpus().items():
        if not name.startswith(f"{generator} "):
            continue
        if " emoji " in name:
            answer = client.post("/completion", json={"prompt": "a", "json_schema": document})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "json_schema")
            continue
        wrong = [text for text in write_texts(client, document, count=10) if find_mismatch(json.loads(text), document)]
        words = json.dumps(document)
        assert not wrong or "(?" in words or any(f'"{word}"' in words for word in in_part), (name, wrong[0])


STREAMS = [False, True]
STATUSES = {False: {502}, True: {200, 502}}
"""Of an answer that does not hold: a stream may not have begun when its only piece comes."""
ADDING = {"properties": {name: {"type": "integer"} for name in "ab"}, "required": ["a", "b"], "type": "object"}
NEVER = {**ADDING, "not": {"required": ["a"]}}
"""What llama-server generates a call of, and no call holds to."""


def make_tool(path: str, *, strict: bool) -> dict[str, Any]:
    if path == "/v1/messages":
        return {"name": "add", "input_schema": NEVER, "strict": strict}
    function = {"name": "add", "parameters": NEVER, "strict": strict}
    return {"type": "function", **function} if path == "/v1/responses" else {"type": "function", "function": function}


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES}),
        ("/v1/chat/completions", {"messages": MESSAGES, "tool_choice": "required"}),
        ("/v1/responses", {"input": QUESTION}),
        ("/v1/responses", {"input": QUESTION, "tool_choice": "required"}),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 60}),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 60, "tool_choice": {"type": "any"}}),
    ],
)
def test_a_call_of_a_strict_tool_holds_to_its_schema_or_is_an_error(  # noqa: PLR0917 - the fixture is the fourth
    path: str,
    body: dict[str, Any],
    stream: bool,  # noqa: FBT001
    client: httpx.Client,
) -> None:
    asked = {**body, "stream": stream, "temperature": 0}
    loose = client.post(path, json={**asked, "tools": [make_tool(path, strict=False)]})
    assert loose.status_code == 200
    assert "add" in loose.text
    assert "schema_mismatch" not in loose.text
    strict = client.post(path, json={**asked, "tools": [make_tool(path, strict=True)]})
    assert strict.status_code in STATUSES[stream]
    assert strict.text.count("the call of add does not hold to the schema of the tool") == 1
    assert not any(end in strict.text for end in ("[DONE]", "message_stop", "response.completed"))


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
def test_a_response_and_a_message_hold_to_their_schemas_too(
    path: str,
    stream: bool,  # noqa: FBT001
    client: httpx.Client,
) -> None:
    document = {"type": "array", "items": {"const": 1}, "minItems": 2, "maxItems": 2, "uniqueItems": True}
    form = {"type": "json_schema", "name": "numbers", "schema": document}
    fields: dict[str, Any] = {"input": QUESTION, "text": {"format": form}}
    if path == "/v1/messages":
        fields = {"messages": MESSAGES, "output_config": {"format": form}, "max_tokens": 200}
    answer = client.post(path, json={**fields, "stream": stream, "temperature": 0})
    assert answer.status_code in STATUSES[stream]
    assert "an item is there twice" in answer.text
    assert not any(end in answer.text for end in ("message_stop", "response.completed"))
