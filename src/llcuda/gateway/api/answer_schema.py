"""Hold answers against the schema or the call that was asked for: llama-server says nothing if it could not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llcuda.errors import SchemaMismatchError
from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.api.field_changes import must_call
from llcuda.gateway.api.strict_calls import check_calls, is_strict, join_uses
from llcuda.schema import Schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["asked_schema", "check_answer", "check_stream", "is_checked"]

_ANY_OBJECT: dict[str, Any] = {"type": "object"}
_NO_CALL = "the model answered in text, and tool_choice asks for a call of a tool; ask again, or choose another model"


def is_checked(endpoint: str, fields: Mapping[str, Any]) -> bool:
    """Tell whether an answer is held against anything."""
    return asked_schema(endpoint, fields) is not None or must_call(fields) or is_strict(fields)


def asked_schema(endpoint: str, fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the schema that the text of an answer has to hold to, None if anything may come."""
    if endpoint in {"completion", "completions", "infill"}:
        return _or_any_object(fields.get("json_schema"))
    if endpoint == "responses":
        wanted = (fields.get("text") or {}).get("format") or {}
        return _read_format({"type": wanted.get("type"), "json_schema": wanted}, None)
    if endpoint == "messages":
        wanted = (fields.get("output_config") or {}).get("format")
        return _or_any_object(wanted and wanted["schema"])
    if endpoint == "chat":
        return _read_format(fields.get("response_format") or {}, fields.get("json_schema"))
    return None


def _read_format(wanted: Mapping[str, Any], beside: dict[str, Any] | None) -> dict[str, Any] | None:
    """Choose between ``response_format`` and the ``json_schema`` beside it, as llama-server does."""
    kind = wanted.get("type")
    if kind == "json_schema":
        return _or_any_object(wanted["json_schema"].get("schema"))
    if kind == "json_object" and ("schema" in wanted or not beside):
        return wanted.get("schema") or _ANY_OBJECT
    return _or_any_object(beside)


def _or_any_object(document: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the schema, in llama-server's sense of an empty one."""
    return document if document is None else document or _ANY_OBJECT


def check_stream(endpoint: str, fields: Mapping[str, Any], data: bytes) -> None:
    """Check a stream that came to its end as ``check_answer`` does a whole answer. Raises RefusedError."""
    events = [json.loads(line[6:]) for line in data.splitlines() if line.startswith(b"data: {")]
    check_answer(endpoint, fields, json.dumps(_JOINED[endpoint](events)).encode())


def _join_choices(events: list[dict[str, Any]]) -> dict[str, Any]:
    parts = [part for event in events for part in event.get("choices", ())]
    return {"choices": [_join_choice([part for part in parts if part["index"] == at]) for at in _find_indices(parts)]}


def _find_indices(parts: list[dict[str, Any]]) -> set[int]:
    return {part["index"] for part in parts}


def _join_choice(parts: list[dict[str, Any]]) -> dict[str, Any]:
    deltas = [part.get("delta", {}) for part in parts]
    return {
        "finish_reason": next((part["finish_reason"] for part in parts if part["finish_reason"]), None),
        "message": {
            "content": "".join(part.get("text") or part.get("delta", {}).get("content") or "" for part in parts),
            "tool_calls": [call for delta in deltas for call in delta.get("tool_calls", ())],
        },
    }


def _join_texts(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**last, "content": "".join(event["content"] for event in events if event.get("index") == last.get("index"))}
        for last in events
        if last.get("stop")
    ]


def _join_message(events: list[dict[str, Any]]) -> dict[str, Any]:
    deltas = [event["delta"] for event in events if "delta" in event]
    text = "".join(delta.get("text", "") for delta in deltas)
    content = [{"type": "text", "text": text}, *join_uses(events)]
    return {"content": content, "stop_reason": deltas[-1]["stop_reason"]}


_JOINED: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "chat": _join_choices,
    "completion": _join_texts,
    "completions": _join_choices,
    "infill": _join_texts,
    "messages": _join_message,
    "responses": lambda events: events[-1]["response"],
}


def check_answer(endpoint: str, fields: Mapping[str, Any], body: bytes) -> None:
    """Check the answer to a request with these fields, if they ask for a schema or a call, or have a strict tool.

    A text that was cut off at the limit of tokens says so in its reason for the end and is passed on, and so is a call
    of a tool. Raises RefusedError (502) for any other text: ``tool_call_missing`` if a call was asked for,
    ``schema_mismatch`` if it does not hold to the schema; and ``bad_answer`` if the answer is not understood.
    """
    document = asked_schema(endpoint, fields)
    schema = Schema(document) if document is not None else None
    try:
        answer = json.loads(body)
        check_calls(endpoint, fields, answer)
        for text in _find_texts(endpoint, answer):
            if must_call(fields):
                raise RefusedError(502, _NO_CALL, code="tool_call_missing", param="tool_choice")
            if schema is not None:
                schema.parse(text)
    except SchemaMismatchError as error:
        reason = f"the answer does not hold to the schema: {error.reason}"
        raise RefusedError(502, reason, code="schema_mismatch") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = f"the worker's answer is not understood ({type(error).__name__})"
        raise RefusedError(502, reason, code="bad_answer") from None


def _find_texts(endpoint: str, answer: Any) -> Iterator[str]:
    """Return the texts that came to their own end, and in place of which no tool is called."""
    if endpoint in {"chat", "completions"}:
        for choice in answer["choices"]:
            message = choice.get("message") or {"content": choice.get("text")}
            if choice["finish_reason"] != "length" and not message.get("tool_calls"):
                yield message["content"]
    elif endpoint == "messages":
        if answer["stop_reason"] not in {"max_tokens", "tool_use"}:
            yield _join_parts(answer["content"], "text")
    elif endpoint == "responses":
        called = any(item["type"] == "function_call" for item in answer["output"])
        if answer["status"] == "completed" and not called:
            items = [item for item in answer["output"] if item["type"] == "message"]
            yield "".join(_join_parts(item["content"], "output_text") for item in items)
    else:
        for one in answer if isinstance(answer, list) else [answer]:
            if one["stop_type"] != "limit":
                yield one["content"]


def _join_parts(parts: list[dict[str, Any]], kind: str) -> str:
    return "".join(part["text"] for part in parts if part["type"] == kind)
