"""A body is read, or refused with a reason: nothing that a client writes in it ends in an error of the gateway."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from llcuda.fleet.dispatch.balance import read_prompt
from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.api.field_media import count_texts
from llcuda.gateway.dialects.agent_turns import join_turns
from llcuda.gateway.http.exchange import Exchange
from llcuda.gateway.http.routes import ROUTES
from llcuda.gateway.observe.gateway_metrics import GatewayMetrics
from llcuda.gateway.relay.model_request import ModelRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, "b"]}}, "required": ["a"]}
FUNCTION = {"name": "f", "description": "d", "parameters": SCHEMA, "strict": True}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
TURNS = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": [{"type": "text", "text": "a"}, IMAGE], "name": "n"},
    {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "r"},
    {"role": "tool", "content": "4", "tool_call_id": "1"},
]
WANTED = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
CHOICE = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "name": "f"}]}}
BODIES: dict[str, Any] = {
    "/v1/chat/completions": {
        "model": "m", "messages": TURNS, "tools": [{"type": "function", "function": FUNCTION}], "tool_choice": CHOICE,
        "response_format": WANTED, "stop": ["x"], "logit_bias": {"5": 1}, "stream_options": {"include_usage": True},
        "functions": [], "modalities": ["text"], "chat_template_kwargs": {"a": 1}, "n": 2, "seed": 1,
    },
    "/v1/messages": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": [
                {"type": "image", "source": {"type": "base64", "data": "AAAA"}}]}]},
            {"role": "system", "content": "s"},
        ],
        "system": [{"type": "text", "text": "s"}], "max_tokens": 5, "stop_sequences": ["x"],
        "tools": [{"name": "f", "input_schema": SCHEMA}], "tool_choice": {"type": "tool", "name": "f"},
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}, "thinking": {"type": "enabled"},
    },
    "/v1/responses": {
        "input": [
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "s"}]},
            {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "r"}]},
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_text", "text": "4"}]},
        ],
        "instructions": "i", "tools": [{"type": "function", **FUNCTION}], "reasoning": {"effort": "low"},
        "text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}, "tool_choice": CHOICE,
    },
    "/v1/completions": {"prompt": ["a", [1, "b"], {"prompt_string": "a", "multimodal_data": ["AAAA"]}], "best_of": 1},
    "/completion": {"prompt": [1, 2, "a"], "json_schema": SCHEMA, "samplers": ["top_k"], "logit_bias": [[5, 1]]},
    "/infill": {"input_prefix": "a", "input_suffix": "b", "input_extra": [{"filename": "f", "text": "t"}]},
    "/v1/embeddings": {"input": ["a", [1]], "encoding_format": "float", "dimensions": 2},
    "/v1/rerank": {"query": "a", "documents": ["b", {"text": "c"}], "top_n": 1},
    "/tokenize": {"content": ["a", 1]},
    "/api/chat": {
        "model": "m", "messages": [
            {"role": "user", "content": "a", "images": ["AAAA"]},
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
            {"role": "tool", "content": "4", "tool_name": "f"},
        ],
        "tools": [{"type": "function", "function": FUNCTION}], "format": SCHEMA, "think": "high",
        "options": {"num_ctx": 1, "stop": ["x"]}, "keep_alive": "5m",
    },
    "/api/generate": {"model": "m", "prompt": "a", "format": "json", "system": "s", "images": ["AAAA"]},
    "/api/embed": {"model": "m", "input": ["a"], "options": {}},
}  # fmt: skip
STRANGE: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 10**30, "", "x", [], [None], ["x"], [[]], {}, {"a": None}, {"type": []}, [{}],
)  # fmt: skip


def read(path: str, body: Any) -> ModelRequest:
    exchange = Exchange()
    exchange.path = path
    exchange.add_body(json.dumps(body).encode())
    return ModelRequest(exchange, ROUTES["POST", path], GatewayMetrics())


def use(path: str, request: ModelRequest) -> None:
    """Do what is done with a request before a worker is asked."""
    read_prompt(request.fields)
    count_texts(request.fields)
    join_turns(ROUTES["POST", path].endpoint, request.fields)


def find_places(value: Any) -> Iterator[tuple[Any, ...]]:
    """Return the way to each value in a body."""
    pairs: Any = value.items() if type(value) is dict else enumerate(value) if type(value) is list else ()
    for key, inner in pairs:
        yield (key,)
        yield from ((key, *rest) for rest in find_places(inner))


@pytest.mark.parametrize("path", BODIES)
def test_the_body_itself_is_taken(path: str) -> None:
    use(path, read(path, BODIES[path]))


@pytest.mark.parametrize("path", BODIES)
def test_whatever_stands_at_any_place_is_read_or_refused(path: str) -> None:
    refused = 0
    for way in find_places(BODIES[path]):
        for strange in STRANGE:
            body = copy.deepcopy(BODIES[path])
            place = body
            for key in way[:-1]:
                place = place[key]
            place[way[-1]] = strange
            with suppress(RefusedError):
                refused += 1
                use(path, read(path, body))
                refused -= 1
    assert refused
