"""Whole answers out of streams against the ones that the real llama-server gives when it does not stream."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from llcuda.gateway.endpoints import ENDPOINTS
from llcuda.gateway.fields import check_fields, parse_body
from llcuda.gateway.whole import WholeAnswer, needs_whole, read_error, to_streamed
from llcuda.gateway.whole_schema import check_answer
from tests.process.test_client_real import KEY, run_server

if TYPE_CHECKING:
    from collections.abc import Iterator

USER = {"role": "user", "content": "What is 2+2?"}
MESSAGES = [USER]
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Say what the weather is.",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]},
    },
}
FLAT_TOOL = {"type": "function", **TOOL["function"]}
ANTHROPIC_TOOL = {"name": "get_weather", "input_schema": TOOL["function"]["parameters"]}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
THOUGHT = '"<think>\\nI see \\n</think>\\n\\nFour  "'
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

# With a chat template that has reasoning and tools. Asked with two of them, the demo model calls one, if a useless one.
TOOLS = [TOOL, {**TOOL, "function": {**TOOL["function"], "name": "get_time"}}]
FLAT_TOOLS = [{"type": "function", **tool["function"]} for tool in TOOLS]
ANTHROPIC_TOOLS = [{"name": tool["name"], "input_schema": tool["parameters"]} for tool in FLAT_TOOLS]
REQUIRED = {"messages": MESSAGES, "tools": TOOLS, "tool_choice": "required", "max_tokens": 60}
TEMPLATED: dict[str, tuple[str, dict[str, Any]]] = {
    "a call": (CHAT, REQUIRED),
    "calls at once, with two choices": (CHAT, {**REQUIRED, "parallel_tool_calls": True, "n": 2, "max_tokens": 100}),
    "a call cut off": (CHAT, {**REQUIRED, "max_tokens": 18}),
    "a call by Responses": (
        RESPONSES, {"input": "What is 2+2?", "tools": FLAT_TOOLS, "tool_choice": "required", "max_output_tokens": 60},
    ),
    "a call by Messages": (
        ANTHROPIC,
        {"messages": MESSAGES, "tools": ANTHROPIC_TOOLS, "tool_choice": {"type": "any"}, "max_tokens": 60},
    ),
    "a call by Messages cut off": (
        ANTHROPIC,
        {"messages": MESSAGES, "tools": ANTHROPIC_TOOLS, "tool_choice": {"type": "any"}, "max_tokens": 18},
    ),
    "the result of a call": (
        CHAT,
        {
            "tools": TOOLS,
            "messages": [
                USER,
                {
                    "role": "assistant", "content": None,
                    "tool_calls": [
                        {"id": "a", "type": "function", "function": {"name": "get_time", "arguments": "{}"}},
                    ],
                },
                {"role": "tool", "tool_call_id": "a", "content": "noon"},
            ],
        },
    ),
    "reasoning": (CHAT, {"messages": MESSAGES, "max_tokens": 60, "grammar": f"root ::= {THOUGHT}"}),
    "reasoning cut off": (CHAT, {"messages": MESSAGES, "max_tokens": 8, "grammar": f"root ::= {THOUGHT}"}),
    "reasoning left in the text": (
        CHAT, {"messages": MESSAGES, "max_tokens": 60, "grammar": f"root ::= {THOUGHT}", "reasoning_format": "none"},
    ),
    "reasoning by Responses": (
        RESPONSES, {"input": "Hello", "max_output_tokens": 60, "grammar": f"root ::= {THOUGHT}"},
    ),
    "a message to be continued": (
        CHAT,
        {
            "messages": [USER, {"role": "assistant", "content": "It is"}], "add_generation_prompt": False,
            "continue_final_message": True,
        },
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


@pytest.fixture(scope="module")
def templated_url(binaries: Path, demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("templated")
    template = Path(__file__).parents[1] / "data" / "chat_with_tools.jinja"
    options = ["--parallel", "4", "--jinja", "--chat-template-file", str(template)]
    with run_server(binaries, demo_model, folder / "log", *options) as running:
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


def compare(url: str, path: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Hold both answers against each other, and return the one out of the stream."""
    body = prepare(path, fields)
    check_fields(ENDPOINTS[path], parse_body(body))
    assert not needs_whole(ENDPOINTS[path], parse_body(body))
    ask(url, path, body)  # Anthropic's API cannot be told to leave the cache alone; after this it is the same for both.
    status, _, whole = ask(url, path, body)
    assert status == 200, whole
    answer: dict[str, Any] = json.loads(stream(url, path, body))
    assert level(answer) == level(json.loads(whole))
    return answer


@pytest.mark.parametrize("name", REQUESTS)
def test_an_answer_out_of_a_stream_is_the_answer_without_one(name: str, url: str) -> None:
    path, fields = REQUESTS[name]
    compare(url, path, fields)


@pytest.mark.parametrize("name", TEMPLATED)
def test_reasoning_and_calls_of_tools_are_those_without_a_stream(name: str, templated_url: str) -> None:
    path, fields = TEMPLATED[name]
    answer = json.dumps(compare(templated_url, path, fields))
    if "call by" in name or name.startswith("a call"):
        assert "get_" in answer
    if "reasoning" in name:
        assert "I" in answer


@pytest.mark.parametrize("name", ERRORS)
def test_what_is_refused_without_a_stream_is_refused_in_the_same_words(name: str, url: str) -> None:
    path, fields = ERRORS[name]
    body = prepare(path, fields)
    status, _, whole = ask(url, path, body)
    streamed_status, kind, streamed = ask(url, path, to_streamed(body, parse_body(body)))
    assert status == streamed_status != 200
    assert kind.startswith("application/json")
    assert json.loads(streamed) == json.loads(whole)
    assert read_error(status, json.loads(streamed)).status == status


def test_a_function_that_is_named_is_the_only_one_and_required(templated_url: str) -> None:
    named = {**REQUIRED, "tool_choice": {"type": "function", "function": {"name": "get_time"}}}
    alone = {**REQUIRED, "tools": TOOLS[1:]}
    answers = [level(json.loads(stream(templated_url, CHAT, prepare(CHAT, fields)))) for fields in (named, alone)]
    assert answers[0] == answers[1]
    # llama-server itself would leave the name out of account.
    assert "get_weather" in str(json.loads(ask(templated_url, CHAT, prepare(CHAT, named))[2])["choices"])


@pytest.mark.parametrize("wanted", [{"type": "json_object"}, {"type": "json_schema", "name": "p", "schema": PERSON}])
def test_a_response_holds_to_the_schema_that_its_text_has(wanted: dict[str, Any], url: str) -> None:
    body = prepare(RESPONSES, {"input": "A person", "text": {"format": wanted}, "max_output_tokens": 100})
    answer = stream(url, RESPONSES, body)
    check_answer("responses", parse_body(body), answer)
    assert json.loads(answer)["output"][0]["content"][0]["text"].startswith("{")


# What streams lack. Where one of these begins to pass, the list in the module's docstring is too long.


def test_probabilities_of_tokens_without_a_text_are_not_in_a_stream(url: str) -> None:
    fields = {"messages": MESSAGES, "logprobs": True, "top_logprobs": 1, "grammar": 'root ::= "yes"'}
    body = prepare(CHAT, fields)
    whole, streamed = json.loads(ask(url, CHAT, body)[2]), json.loads(stream(url, CHAT, body))
    entries, fewer = (answer["choices"][0]["logprobs"]["content"] for answer in (whole, streamed))
    assert fewer == entries[:-1]
    assert needs_whole("chat", fields)


def test_the_ids_of_tokens_and_the_cut_of_an_indent_are_not_in_a_stream(url: str) -> None:
    for more, name in (({"return_tokens": True}, "tokens"), ({"n_indent": 4}, "content")):
        fields = {"prompt": "x", "grammar": 'root ::= "    a\\n    b\\nc d e\\n"', **more}
        body = prepare(NATIVE, fields)
        assert json.loads(ask(url, NATIVE, body)[2])[name] != json.loads(stream(url, NATIVE, body))[name]
        assert needs_whole("completion", fields)


def test_what_could_have_been_a_stop_string_is_not_in_a_stream_that_the_limit_ends(url: str) -> None:
    body = prepare(NATIVE, {"prompt": "a", "max_tokens": 3, "stop": ["abcdeX"], "grammar": 'root ::= "abcde"'})
    whole, streamed = json.loads(ask(url, NATIVE, body)[2]), json.loads(stream(url, NATIVE, body))
    assert (whole["content"], streamed["content"]) == ("abc", "")
    assert whole["stop_type"] == streamed["stop_type"] == "limit"


def test_the_marks_around_reasoning_that_is_empty_are_not_in_a_stream(templated_url: str) -> None:
    body = prepare(CHAT, {"messages": MESSAGES, "grammar": 'root ::= "<think></think>"'})
    whole, streamed = json.loads(ask(templated_url, CHAT, body)[2]), json.loads(stream(templated_url, CHAT, body))
    texts = [answer["choices"][0]["message"]["content"] for answer in (whole, streamed)]
    assert texts == ["<think></think>", ""]
