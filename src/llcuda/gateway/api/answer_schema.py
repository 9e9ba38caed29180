"""Hold answers against the schema that was asked for: llama-server says nothing if it could not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llcuda.errors import SchemaMismatchError
from llcuda.fleet.refusals import RefusedError
from llcuda.schema import Schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["STREAMS", "asked_schema", "check_answer", "check_stream"]

STREAMS = frozenset({"chat", "completion", "completions", "infill"})
"""The endpoints whose streams are checked at their end."""
_ANY_OBJECT: dict[str, Any] = {"type": "object"}


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
    if endpoint in {"chat", "completions"}:
        parts = [part for event in events for part in event.get("choices", ())]
        answer: Any = {"choices": [_join_choice(parts, index) for index in {part["index"] for part in parts}]}
    else:
        answer = [
            {
                "content": "".join(event["content"] for event in events if event.get("index") == last.get("index")),
                "stop_type": last["stop_type"],
            }
            for last in events
            if last.get("stop")
        ]
    check_answer(endpoint, fields, json.dumps(answer).encode())


def _join_choice(parts: list[dict[str, Any]], index: int) -> dict[str, Any]:
    mine = [part for part in parts if part["index"] == index]
    deltas = [part.get("delta", {}) for part in mine]
    return {
        "finish_reason": next((part["finish_reason"] for part in mine if part["finish_reason"]), None),
        "message": {
            "content": "".join(part.get("text") or part.get("delta", {}).get("content") or "" for part in mine),
            "tool_calls": [call for delta in deltas for call in delta.get("tool_calls", ())],
        },
    }


def check_answer(endpoint: str, fields: Mapping[str, Any], body: bytes) -> None:
    """Check the answer to a request with these fields, if they ask for a schema.

    A text that was cut off at the limit of tokens says so in its reason for the end and is passed on, and so is a call
    of a tool. Raises RefusedError (502, ``schema_mismatch``) for any other text that does not hold to the schema, and
    for an answer that is not understood (502, ``bad_answer``).
    """
    document = asked_schema(endpoint, fields)
    if document is None:
        return
    schema = Schema(document, _keep)
    try:
        for text in _find_texts(endpoint, fields, json.loads(body)):
            schema.parse(text)
    except SchemaMismatchError as error:
        reason = f"the answer does not hold to the schema: {error.reason}"
        raise RefusedError(502, reason, code="schema_mismatch") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"the worker's answer is not understood ({type(error).__name__})"
        raise RefusedError(502, reason, code="bad_answer") from None


def _find_texts(endpoint: str, fields: Mapping[str, Any], answer: Any) -> Iterator[str]:
    """Return the texts that came to their own end."""
    if endpoint in {"chat", "completions"}:
        for choice in answer["choices"]:
            message = choice.get("message") or {"content": choice.get("text")}
            if choice["finish_reason"] != "length" and not message.get("tool_calls"):
                yield message["content"]
    elif endpoint == "messages":
        yield from _find_message_texts(answer)
    elif endpoint == "responses":
        yield from _find_response_texts(fields.get("max_output_tokens"), answer)
    else:
        for one in answer if isinstance(answer, list) else [answer]:
            if one["stop_type"] != "limit":
                yield one["content"]


def _find_message_texts(answer: dict[str, Any]) -> Iterator[str]:
    if answer["stop_reason"] not in {"max_tokens", "tool_use"}:
        yield "".join(part["text"] for part in answer["content"] if part["type"] == "text")


def _find_response_texts(limit: int | None, answer: dict[str, Any]) -> Iterator[str]:
    """Return the text of a response. llama-server calls it completed even if it was cut off; the counts tell."""
    kinds = {item["type"] for item in answer["output"]}
    if "function_call" in kinds or (limit is not None and 0 <= limit <= answer["usage"]["output_tokens"]):
        return
    yield "".join(part["text"] for item in answer["output"] if item["type"] == "message" for part in item["content"])


def _keep(value: Any) -> Any:
    return value
