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
from tests.inputs.pydantic_schemas import make_pydantic_schemas
from tests.places import DOCS, INPUTS
from tests.process.gateway.clients.gateways import KEY, MESSAGES, gateway

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


def test_a_grammar_is_made_of_every_schema_that_a_generator_writes(client: httpx.Client) -> None:
    generated = json.loads((INPUTS / "generated_schemas.json").read_text())
    for name, document in {**generated, **make_pydantic_schemas()}.items():
        answer = client.post("/completion", json={"prompt": "a", "n_predict": 1, "json_schema": document})
        assert answer.status_code == (400 if " emoji " in name else 200), (name, answer.text)
