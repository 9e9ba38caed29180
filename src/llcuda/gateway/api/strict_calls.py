"""Hold calls of the tools that are ``strict`` to the schemas of their arguments."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llcuda.errors import SchemaMismatchError
from llcuda.fleet.refusals import RefusedError
from llcuda.schema import Schema
from llcuda.schema.tool_calls import find_strict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["check_calls", "is_strict", "join_uses"]


def is_strict(fields: Mapping[str, Any]) -> bool:
    """Tell whether a request has a tool that is strict."""
    return bool(find_strict(fields.get("tools") or ()))


def check_calls(endpoint: str, fields: Mapping[str, Any], answer: Any) -> None:
    """Check the calls in an answer, but for one that was cut off. Raises RefusedError (502, ``schema_mismatch``)."""
    strict = find_strict(fields.get("tools") or ())
    for name, arguments in _find_calls(endpoint, answer) if strict else ():
        if name in strict:
            _check_call(name, arguments, strict[name])


def _check_call(name: str, arguments: str, document: dict[str, Any]) -> None:
    try:
        Schema(document).parse(arguments or "{}")
    except SchemaMismatchError as error:
        reason = f"the call of {name} does not hold to the schema of the tool: {error.reason}"
        raise RefusedError(502, reason, code="schema_mismatch") from None


def _find_calls(endpoint: str, answer: Any) -> Iterator[tuple[str, str]]:
    """Return the names and the arguments of the calls that came to their own end."""
    if endpoint == "chat":
        for choice in answer["choices"]:
            if choice["finish_reason"] != "length":
                yield from _join_calls(choice["message"].get("tool_calls") or [])
    elif endpoint == "messages" and answer["stop_reason"] != "max_tokens":
        for part in answer["content"]:
            if part["type"] == "tool_use":
                yield part["name"], part["input"] if type(part["input"]) is str else json.dumps(part["input"])
    elif endpoint == "responses" and answer["status"] == "completed":
        for item in answer["output"]:
            if item["type"] == "function_call":
                yield item["name"], item["arguments"]


def _join_calls(pieces: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Return calls that came whole, or in pieces of the same index."""
    places = [piece.get("index", place) for place, piece in enumerate(pieces)]
    for place in dict.fromkeys(places):
        mine = [piece["function"] for piece, at in zip(pieces, places, strict=True) if at == place]
        yield mine[0]["name"], "".join(function.get("arguments") or "" for function in mine)


def join_uses(events: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Return the calls in a stream of Anthropic's, whose arguments come in pieces of text."""
    for event in events:
        if event["type"] == "content_block_start" and event["content_block"]["type"] == "tool_use":
            mine = [one["delta"] for one in events if "delta" in one and one.get("index") == event["index"]]
            yield {**event["content_block"], "input": "".join(delta.get("partial_json", "") for delta in mine)}
