"""What has to be said to llama-server in other words than the client's, for it to do what was asked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llcuda.fleet.refusals import RefusedError
from llcuda.schema.constraint import constrain
from llcuda.schema.tool_calls import constrain_tools

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["must_call", "to_understood", "wrap_format"]

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


_NOT_PASSED_ON = frozenset({"id_slot", "response_fields"})


def to_understood(
    body: bytes, fields: Mapping[str, Any], more: Mapping[str, Any] | None = None, *, is_changed: bool = False
) -> bytes:
    """Return the body that asks in llama-server's words for what ``fields`` say: nearly always the body as it is.

    The fields are those of the body, and were checked. One that is changed is written anew, ``more`` among them, and
    so are all if the fields are others than those of the body (``is_changed``). Raises RefusedError (400) for a name
    that no tool has.
    """
    changes = {**_find_changes(fields), **(more or {})}
    left_out = _NOT_PASSED_ON & fields.keys()
    if not changes and not left_out and not is_changed:
        return body
    return _encode({name: value for name, value in {**fields, **changes}.items() if name not in left_out}).encode()


def _find_changes(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that are to be set.

    llama-server takes a ``tool_choice`` that names a function for ``auto``, so it is told that a call is required and
    of no other function; it takes Anthropic's ``none`` for ``auto`` too, and does not know the ``text`` of the
    Responses API, whose schema it would not hold to.
    """
    changes: dict[str, Any] = {}
    choice, text = fields.get("tool_choice"), fields.get("text")
    if must_call(fields) and not fields.get("tools"):
        raise RefusedError(400, "tool_choice asks for a call without tools", code="invalid_value", param="tools")
    if type(choice) is dict:
        changes |= _choose_tools(choice, fields.get("tools") or [])
    if type(text) is dict and text.get("format"):
        changes["response_format"] = wrap_format(text["format"])
    return changes | _find_schemas({**fields, **changes})


def must_call(fields: Mapping[str, Any]) -> bool:
    """Tell whether the answer is to be a call of a tool."""
    choice = fields.get("tool_choice")
    if type(choice) is not dict:
        return bool(choice == "required")
    mode = choice.get("allowed_tools", choice).get("mode")
    return choice["type"] in {"any", "function", "tool"} or mode == "required"


def _find_schemas(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields with a schema that llama-server would hold to in part only, as it understands them."""
    found: dict[str, Any] = {}
    beside, wanted, tools = fields.get("json_schema"), fields.get("response_format"), fields.get("tools")
    config = fields.get("output_config")
    if beside:
        found["json_schema"] = constrain(beside)
    if type(wanted) is dict and (wrapper := wanted.get("json_schema")) and wrapper.get("schema"):
        found["response_format"] = {**wanted, "json_schema": {**wrapper, "schema": constrain(wrapper["schema"])}}
    elif type(wanted) is dict and wanted.get("schema"):
        found["response_format"] = {**wanted, "schema": constrain(wanted["schema"])}
    if type(config) is dict and (form := config.get("format")):
        found["output_config"] = {**config, "format": {**form, "schema": constrain(form["schema"])}}
    if tools:
        found["tools"] = constrain_tools(tools)
    return {name: value for name, value in found.items() if value != fields[name]}


def _choose_tools(choice: dict[str, Any], tools: list[dict[str, Any]]) -> dict[str, Any]:
    if choice["type"] == "none":
        return {"tools": []}
    if choice["type"] == "allowed_tools":
        return _allow_tools(choice.get("allowed_tools", choice), tools)
    name = choice.get("function", choice).get("name")
    if name is None:
        return {}
    chosen = [tool for tool in tools if tool.get("function", tool).get("name") == name]
    if not chosen:
        reason = f"tool_choice names {name[:100]!r}, and no tool has this name"
        raise RefusedError(400, reason, code="invalid_value", param="tool_choice")
    return {"tools": chosen, **({} if choice["type"] == "tool" else {"tool_choice": "required"})}


def _allow_tools(allowed: dict[str, Any], tools: list[dict[str, Any]]) -> dict[str, Any]:
    names = {_name(tool) for tool in allowed["tools"]}
    if unknown := names - set(map(_name, tools)):
        reason = f"tool_choice allows {', '.join(sorted(unknown))[:100]}, and no tool has this name"
        raise RefusedError(400, reason, code="invalid_value", param="tool_choice")
    return {"tools": [tool for tool in tools if _name(tool) in names], "tool_choice": allowed["mode"]}


def _name(tool: dict[str, Any]) -> str:
    function = tool.get("function")
    return str((function if type(function) is dict else tool).get("name"))


def wrap_format(wanted: dict[str, Any]) -> dict[str, Any]:
    """Return a format of the Responses API as the chat API writes it."""
    if wanted["type"] != "json_schema":
        return wanted
    return {"type": "json_schema", "json_schema": {name: item for name, item in wanted.items() if name != "type"}}
