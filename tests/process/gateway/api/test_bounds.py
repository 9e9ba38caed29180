"""The bounds of a request, at their edge: a real llama-server answers what is taken, and is not asked what is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from llcuda.gateway.api import field_costs as costs
from llcuda.gateway.api.fields import MAX_ALL_NAMES, MAX_NAMES
from tests.process.gateway.clients.gateways import ANSWER, KEY, MESSAGES, gateway

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llcuda.gateway.gateway import Gateway

SECONDS = 120


@pytest.fixture(scope="module")
def running() -> Iterator[Gateway]:
    with gateway(workers=1) as started:
        yield started


def ask(running: Gateway, path: str = "/v1/completions", **fields: Any) -> httpx.Response:
    body = {"prompt": "Hi", "max_tokens": 4, "temperature": 0, **fields} if path == "/v1/completions" else fields
    headers = {"Authorization": f"Bearer {KEY}"}
    return httpx.post(f"{running.url}{path}", json=body, headers=headers, timeout=SECONDS, trust_env=False)


def find_pids(running: Gateway) -> set[int | None]:
    inner = running._running
    assert inner is not None
    return {replica.pid for model in inner.models.values() for replica in model.fleet.replicas}


def names(count: int) -> dict[str, int]:
    return {f"n{place}": place for place in range(count)}


def properties(count: int, *, width: int = 8, **more: Any) -> dict[str, Any]:
    inner = {f"{place:0{width}}": {"type": "string", **more} for place in range(count)}
    return {"type": "object", "properties": inner, "additionalProperties": {"type": "integer"}}


EDGES: dict[str, dict[str, Any]] = {
    "alternatives": {"json_schema": {"enum": [f"value {place}" for place in range(costs.MAX_WAYS)]}},
    "objects": {"json_schema": {"anyOf": [{"type": "array", "items": {"const": place}} for place in range(512)]}},
    "optional": {"json_schema": properties(costs.MAX_OPTIONAL)},
    "a name": {"json_schema": properties(1, width=costs.MAX_NAME_CHARACTERS)},
    "repetitions": {"json_schema": {"prefixItems": [{"type": "string", "maxLength": 2000}] * 65}},
    "skips": {"grammar": "root ::= " + '"a"? ' * costs.MAX_SKIPS},
    "choices": {"grammar": "root ::= " + " | ".join(f'"{place}"' for place in range(costs.MAX_WAYS))},
    "names": {"metadata": names(MAX_NAMES)},
    "all names": {"metadata": [names(MAX_NAMES)] * (MAX_ALL_NAMES // MAX_NAMES - 1)},
    "values": {"metadata": [[7] * 8] * 60_000},
}


@pytest.mark.parametrize("fields", EDGES.values(), ids=EDGES)
def test_what_is_within_a_bound_is_answered(running: Gateway, fields: dict[str, Any]) -> None:
    answer = ask(running, **fields)
    assert (answer.status_code, answer.text[:200]) == (200, answer.text[:200])


def test_64_tools_are_made_a_prompt_of(running: Gateway) -> None:
    tools = [
        {"type": "function", "function": {"name": f"f{place}", "parameters": properties(20, maxLength=80)}}
        for place in range(64)
    ]
    fields = {"messages": MESSAGES, "tools": tools, "tool_choice": "required"}
    answer = ask(running, "/apply-template", **fields)
    assert (answer.status_code, answer.text[:200]) == (200, answer.text[:200])


BEYOND: dict[str, tuple[dict[str, Any], str]] = {
    # Each of the first two ended a llama-server that it came to.
    "a long name": ({"json_schema": properties(1, width=20_000)}, "a name of 20000 characters, and may have 256"),
    "a name of spaces": ({"json_schema": {"properties": {" " * 60_000: {}}}}, "a name of 60000 characters"),
    "a reference of spaces": ({"json_schema": {"$ref": "#/" + " " * 60_000}}, "which is not in it"),
    "alternatives": ({"json_schema": {"enum": list(range(6000))}}, "# has 6000 alternatives"),
    "optional": ({"json_schema": properties(1000)}, "#/properties has 1000 that are not required"),
    "skips": ({"grammar": "root ::= " + '"a"? ' * 2000}, "of ?, * and {} in one rule, and may have 1024"),
    "names": ({"metadata": names(50_000)}, "metadata has 50000 names, and may have 1024"),
}


@pytest.mark.parametrize(("fields", "said"), BEYOND.values(), ids=BEYOND)
def test_what_is_beyond_a_bound_comes_to_no_worker(running: Gateway, fields: dict[str, Any], said: str) -> None:
    before = find_pids(running)
    error = ask(running, **fields)
    assert error.status_code == 400
    told = error.json()["error"]
    assert (told["type"], said in told["message"]) == ("invalid_request_error", True)
    chat = ask(running, "/v1/chat/completions", messages=MESSAGES, temperature=0)
    assert chat.json()["choices"][0]["message"]["content"] == ANSWER
    assert find_pids(running) == before


def test_the_name_of_a_tool_is_no_way_to_end_a_worker(running: Gateway) -> None:
    before = find_pids(running)
    tools = [{"type": "function", "function": {"name": " " * 60_000, "parameters": {"type": "object"}}}]
    error = ask(running, "/v1/chat/completions", messages=MESSAGES, tools=tools, tool_choice="required")
    assert (error.status_code, error.json()["error"]["param"]) == (400, "tools[0].name")
    assert find_pids(running) == before
