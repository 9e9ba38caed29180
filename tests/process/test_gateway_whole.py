"""Whole answers out of streams against the ones that the real llama-server gives when it does not stream."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from llcuda.gateway.endpoints import ENDPOINTS
from llcuda.gateway.fields import check_fields, parse_body
from llcuda.gateway.whole import WholeAnswer, needs_whole, to_streamed
from tests.process.test_client_real import KEY, run_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

USER = {"role": "user", "content": "What is 2+2?"}
MESSAGES = [USER]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Say what the weather is.",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]},
    },
}
FLAT_TOOL = {"type": "function", **TOOL["function"]}  # type: ignore[dict-item]
ANTHROPIC_TOOL = {"name": "get_weather", "input_schema": TOOL["function"]["parameters"]}  # type: ignore[index]
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
CHAT, TEXT, NATIVE = "/v1/chat/completions", "/v1/completions", "/completion"
RESPONSES, ANTHROPIC, INFILL = "/v1/responses", "/v1/messages", "/infill"

REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, {"messages": MESSAGES}),
    "chat with all that OpenAI has": (
        CHAT,
        {"messages": MESSAGES, "model": "demo", "user": "u", "store": False, "metadata": {"a": "b"}, "stream": False},
    ),
    "chat to its own end": (CHAT, {"messages": MESSAGES, "max_tokens": 200}),
    "chat of one token": (CHAT, {"messages": MESSAGES, "max_tokens": 1}),
    "chat of no token": (CHAT, {"messages": MESSAGES, "max_tokens": 0}),
    "chat with two choices": (CHAT, {"messages": MESSAGES, "n": 2}),
    "chat with four choices": (CHAT, {"messages": MESSAGES, "n": 4, "max_tokens": 5}),
    "chat with a stop string": (CHAT, {"messages": MESSAGES, "stop": ["e"]}),
    "chat with a system message and a history": (
        CHAT,
        {"messages": [{"role": "system", "content": "Be brief."}, USER, {"role": "assistant", "content": "4"}, USER]},
    ),
    "chat with parts": (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]}),
    "chat with a schema": (
        CHAT,
        {
            "messages": MESSAGES, "max_tokens": 60,
            "response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON}},
        },
    ),
    "chat with any object": (CHAT, {"messages": MESSAGES, "response_format": {"type": "json_object"}}),
    "chat with a tool to be called": (
        CHAT, {"messages": MESSAGES, "tools": [TOOL], "tool_choice": "required", "max_tokens": 80},
    ),
    "chat with a tool cut off": (
        CHAT, {"messages": MESSAGES, "tools": [TOOL], "tool_choice": "required", "max_tokens": 12},
    ),
    "chat with tools called at once": (
        CHAT,
        {
            "messages": MESSAGES, "tools": [TOOL], "tool_choice": "required", "max_tokens": 100,
            "parallel_tool_calls": True, "n": 2,
        },
    ),
    "chat with a tool left alone": (CHAT, {"messages": MESSAGES, "tools": [TOOL]}),
    "chat with a grammar of reasoning": (
        CHAT,
        {"messages": MESSAGES, "max_tokens": 40, "grammar": 'root ::= "<think>I see</think>Four" [a-z]{3}'},
    ),
    "chat with a grammar": (CHAT, {"messages": MESSAGES, "grammar": 'root ::= "yes" | "no"'}),
    "chat with characters of several tokens": (CHAT, {"messages": MESSAGES, "grammar": 'root ::= "né 漢字 🦙 é"'}),
    "chat with times of each token": (CHAT, {"messages": MESSAGES, "timings_per_token": True}),
    "chat with progress": (CHAT, {"messages": MESSAGES, "return_progress": True}),
    "completions": (TEXT, {"prompt": "Once upon a time"}),
    "completions of tokens": (TEXT, {"prompt": [1, 2, 3]}),
    "completions of several prompts": (TEXT, {"prompt": ["One", "Two", "Three"]}),
    "completions of several prompts and choices": (TEXT, {"prompt": ["One", "Two"], "n": 2}),
    "completions with a stop string": (TEXT, {"prompt": "Once upon", "stop": "e"}),
    "completions with a schema": (TEXT, {"prompt": "A person:", "json_schema": PERSON, "max_tokens": 60}),
    "native": (NATIVE, {"prompt": "Once upon a time"}),
    "native with all sampling": (
        NATIVE, {"prompt": "Once", "top_k": 5, "min_p": 0.1, "logit_bias": [[5, -1.5]], "samplers": ["top_k"]},
    ),
    "native of several prompts": (NATIVE, {"prompt": ["One", [1, 2], ["Two", 3]]}),
    "native with two choices": (NATIVE, {"prompt": "Once", "n": 2}),
    "native with a stop string": (NATIVE, {"prompt": "Once upon", "stop": ["e"]}),
    "native with progress and times": (
        NATIVE, {"prompt": "Once upon", "return_progress": True, "timings_per_token": True},
    ),
    "native without a token": (NATIVE, {"prompt": "Once upon", "n_predict": 0}),
    "infill": (INFILL, {"input_prefix": "def f(x):\n    return ", "input_suffix": "\n"}),
    "responses": (RESPONSES, {"input": "What is 2+2?", "instructions": "Be brief."}),
    "responses with items": (
        RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}], "store": False},
    ),
    "responses with a tool": (
        RESPONSES, {"input": "Weather?", "tools": [FLAT_TOOL], "tool_choice": "required", "max_output_tokens": 80},
    ),
    "responses with reasoning": (
        RESPONSES, {"input": "Hello", "max_output_tokens": 40, "grammar": 'root ::= "<think>I see</think>Four"'},
    ),
    "messages": (ANTHROPIC, {"messages": MESSAGES, "max_tokens": 16}),
    "messages with a system text": (ANTHROPIC, {"messages": MESSAGES, "system": "Be brief.", "max_tokens": 16}),
    "messages with a stop string": (ANTHROPIC, {"messages": MESSAGES, "stop_sequences": ["e"], "max_tokens": 16}),
    "messages with a tool": (
        ANTHROPIC,
        {"messages": MESSAGES, "tools": [ANTHROPIC_TOOL], "tool_choice": {"type": "any"}, "max_tokens": 80},
    ),
    "messages with a tool cut off": (
        ANTHROPIC,
        {"messages": MESSAGES, "tools": [ANTHROPIC_TOOL], "tool_choice": {"type": "any"}, "max_tokens": 12},
    ),
}  # fmt: skip

ERRORS: dict[str, tuple[str, dict[str, Any]]] = {
    "a prompt beyond the context": (NATIVE, {"prompt": "word " * 4000}),
    "a chat beyond the context": (CHAT, {"messages": [{"role": "user", "content": "word " * 4000}]}),
    "a response beyond the context": (RESPONSES, {"input": "word " * 4000}),
    "a message beyond the context": (ANTHROPIC, {"messages": [{"role": "user", "content": "word " * 4000}]}),
    "more choices than slots": (CHAT, {"messages": MESSAGES, "n": 9}),
    "a grammar that is none": (TEXT, {"prompt": "a", "grammar": "root ::= ("}),
}

# What differs between two answers to the same request, and how.
CHANGING = {"created", "created_at", "completed_at", "id", "call_id"}
NUMBERS = {"timings"}


@pytest.fixture(scope="module")
def url(binaries: Path, demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with run_server(binaries, demo_model, folder / "log", "--parallel", "4") as running:
        yield running.url


def ask(url: str, path: str, body: bytes) -> tuple[int, str, bytes]:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=120)
    try:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Type") or "", answer.read()
    finally:
        connection.close()


def prepare(path: str, fields: dict[str, Any]) -> bytes:
    """Settle what chance would, and let no answer be longer than it has to be. The cache would make counts differ."""
    settled: dict[str, Any] = {"temperature": 0}
    if path != ANTHROPIC:
        settled |= {"seed": 7, "cache_prompt": False}
        if not fields.keys() & {"max_tokens", "n_predict", "max_output_tokens"}:
            settled["max_output_tokens" if path == RESPONSES else "max_tokens"] = 16
    return json.dumps({**settled, **fields}).encode()


def level(value: Any, *, name: str = "") -> Any:
    """Return a value with what differs between two answers left out, and everything else as it is."""
    if name in CHANGING:
        return type(value).__name__
    if name in NUMBERS:
        return sorted(value)
    if isinstance(value, dict):
        return {key: level(item, name=key) for key, item in value.items() if key != "id_slot"}
    if isinstance(value, list):
        return [level(item) for item in value]
    return value


def stream(url: str, path: str, body: bytes, *, pieces: int = 1000) -> bytes:
    fields = parse_body(body)
    status, kind, data = ask(url, path, to_streamed(body, fields))
    assert (status, kind) == (200, "text/event-stream"), data
    answer = WholeAnswer(ENDPOINTS[path], fields)
    for start in range(0, len(data), pieces):
        answer.feed(data[start : start + pieces])
    assert answer.finished
    return answer.result()


@pytest.mark.parametrize("name", REQUESTS)
def test_an_answer_out_of_a_stream_is_the_answer_without_one(name: str, url: str) -> None:
    path, fields = REQUESTS[name]
    body = prepare(path, fields)
    check_fields(ENDPOINTS[path], parse_body(body))
    assert not needs_whole(ENDPOINTS[path], parse_body(body))
    ask(url, path, body)  # Anthropic's API cannot be told to leave the cache alone; after this it is the same for both.
    status, _, whole = ask(url, path, body)
    if path == INFILL and status == 501:
        pytest.skip("the model has no tokens for infill")
    assert status == 200, whole
    assert level(json.loads(stream(url, path, body))) == level(json.loads(whole))


@pytest.mark.parametrize("name", ERRORS)
def test_what_is_refused_without_a_stream_is_refused_in_the_same_words(name: str, url: str) -> None:
    path, fields = ERRORS[name]
    body = prepare(path, fields)
    status, _, whole = ask(url, path, body)
    streamed_status, kind, streamed = ask(url, path, to_streamed(body, parse_body(body)))
    assert status == streamed_status != 200
    assert kind.startswith("application/json")
    assert json.loads(streamed) == json.loads(whole)
