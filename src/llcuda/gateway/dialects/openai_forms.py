"""What OpenAI's API and others take and llama-server does not, in the form that llama-server takes.

A null is a name left out. A call of a tool whose arguments a small model left broken would otherwise be
refused at every later turn.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.api.field_changes import wrap_format
from llcuda.gateway.api.fields import parse_body

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["to_known_forms"]

_CHATS = frozenset({"chat", "apply_template", "chat_tokens"})
_RESPONSES = frozenset({"responses", "responses_tokens"})
_RANDOM = 2**32 - 1  # llama-server's seed has 32 bits, and this is none


def to_known_forms(endpoint: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a body, not checked yet, in the forms that are known: the same object if they all are."""
    changes = _change_values(endpoint, fields)
    if endpoint == "rerank":
        changes |= _change_list("documents", fields, _take_text) | _change_list("texts", fields, _take_text)
    if endpoint in _CHATS:
        changes |= _wrap_schema(fields)
        changes |= _change_list("messages", fields, _change_message)
    if endpoint in _RESPONSES:
        changes |= _change_list("input", fields, _change_item)
    if endpoint in _CHATS | _RESPONSES:
        changes |= _change_list("tools", fields, _change_tool)
    if not changes:
        return fields
    return {name: value for name, value in {**fields, **changes}.items() if value is not _LEFT_OUT}


_LEFT_OUT = object()
_NONE = {"echo": False, "suffix": ""}
"""What asks for nothing."""


def _is_same(value: Any, one: Any) -> bool:
    """Tell whether a value is another one and of its type: 0 is not false."""
    return type(value) is type(one) and value == one


def _change_values(endpoint: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    changes = {name: _LEFT_OUT for name, value in fields.items() if value is None}
    seed = fields.get("seed")
    if type(seed) is int and not -1 <= seed <= _RANDOM and -(2**63) <= seed < 2**63:
        changes["seed"] = seed % _RANDOM
    for name in ("stop", "stop_sequences"):
        stop = fields.get(name)
        if stop == "" or (type(stop) is list and "" in stop):
            changes[name] = [text for text in stop if text]  # llama-server would end at once
    if endpoint == "completions":
        if _is_same(fields.get("logprobs"), 0):
            changes["logprobs"] = 1  # llama-server takes 0 for none at all
        if any(_is_same(fields.get("best_of"), one) for one in (1, fields.get("n"))):
            changes["best_of"] = _LEFT_OUT
        changes |= {name: _LEFT_OUT for name, none in _NONE.items() if _is_same(fields.get(name), none)}
    elif _is_same(fields.get("top_logprobs"), 0) and endpoint in _CHATS | _RESPONSES:
        changes["top_logprobs"] = 1 if fields.get("logprobs") is True else _LEFT_OUT
    return changes


def _wrap_schema(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the format of llama-server's documentation, and of the Responses API, as OpenAI's chat writes it."""
    wanted = fields.get("response_format")
    if type(wanted) is not dict or wanted.get("type") != "json_schema" or "json_schema" in wanted:
        return {}
    return {"response_format": wrap_format(wanted)}


def _take_text(document: dict[str, Any]) -> Any:
    """Return the text of a document as Cohere's and Jina's APIs write it."""
    return document["text"] if type(document.get("text")) is str else document


def _change_list(name: str, fields: Mapping[str, Any], change: Any) -> dict[str, Any]:
    given = fields.get(name)
    if type(given) is not list:
        return {}
    changed = [change(one) if type(one) is dict else one for one in given]
    return {name: changed} if any(new is not old for new, old in zip(changed, given, strict=True)) else {}


def _drop_nulls(given: dict[str, Any], *kept: str) -> dict[str, Any]:
    if all(value is not None or name in kept for name, value in given.items()):
        return given
    return {name: value for name, value in given.items() if value is not None or name in kept}


def _change_message(given: dict[str, Any]) -> dict[str, Any]:
    message = _drop_nulls(given, "content", "role")
    if type(message.get("content")) is list:
        message = {**message, **_change_list("content", message, _change_part)}
    if type(message.get("function_call")) is dict and "tool_calls" not in message:
        message = {**message, "tool_calls": [{"function": message["function_call"]}]}
    return {**message, **calls} if (calls := _change_list("tool_calls", message, _change_call)) else message


def _change_part(given: dict[str, Any]) -> dict[str, Any]:
    if given.get("type") == "refusal":
        return {"type": "text", "text": given.get("refusal")}
    return _drop_nulls(given, "text", "type")


def _change_call(given: dict[str, Any]) -> dict[str, Any]:
    call = {"type": "function", **_drop_nulls(given)}
    function = call.get("function")
    if type(function) is dict:
        call["function"] = {**function, "arguments": _repair(function.get("arguments"))}
    return given if call == given else call


def _change_item(given: dict[str, Any]) -> dict[str, Any]:
    if given.get("type") != "function_call":
        return given
    arguments = _repair(given.get("arguments"))
    if type(arguments) is not str:
        arguments = json.dumps(arguments, ensure_ascii=False)
    return given if arguments == given.get("arguments") else {**given, "arguments": arguments}


def _change_tool(given: dict[str, Any]) -> dict[str, Any]:
    tool = _drop_nulls(given)
    function = tool.get("function")
    if type(function) is dict and (changed := _drop_nulls(function)) is not function:
        tool = {**tool, "function": changed}
    return tool


def _repair(arguments: Any) -> Any:
    """Return a call's arguments as an object, or its text: those that are none become an object with what was there.

    llama-server reads the text by its own rules, and templates go through the names in it.
    """
    if type(arguments) is dict:
        return arguments
    if type(arguments) is str:
        try:
            parse_body(arguments.encode())
        except (RefusedError, UnicodeEncodeError):
            return json.dumps({"arguments": arguments} if arguments.strip() else {}, ensure_ascii=False)
        return arguments
    return json.dumps({} if arguments is None else {"arguments": arguments}, ensure_ascii=False)
