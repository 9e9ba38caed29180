"""The schemas of tools' arguments: checked, as llama-server is sent them, and those that calls are held to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llcuda.errors import UsageError
from llcuda.schema.check import check_schema
from llcuda.schema.constraint import constrain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["check_tools", "constrain_tools", "find_strict"]


def _find_parameters(tool: Mapping[str, Any]) -> tuple[dict[str, Any], str] | None:
    """Return the function that a tool is or has, and which of its fields is the schema of its arguments, if any."""
    function = tool.get("function") or tool
    for key in ("parameters", "input_schema"):
        if isinstance(function, dict) and function.get(key) and isinstance(function[key], dict):
            return function, key
    return None


def constrain_tools(tools: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the tools with schemas that llama-server generates by. Raises UsageError as ``constrain`` does."""
    return [_constrain_tool(tool) for tool in tools]


def _constrain_tool(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    found = _find_parameters(tool)
    if found is None:
        return tool
    function, key = found
    changed = {**function, key: constrain(function[key], is_shown=True)}
    return {**tool, "function": changed} if tool.get("function") else changed


def find_strict(tools: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the schemas of the tools that are ``strict``, by their names: calls of them have to hold to these."""
    found = filter(None, map(_find_parameters, tools))
    return {str(function.get("name")): function[key] for function, key in found if function.get("strict") is True}


def check_tools(tools: Iterable[Mapping[str, Any]]) -> None:
    """Check the schemas of tools. Raises UsageError that names the tool by its place."""
    for place, tool in enumerate(tools):
        if found := _find_parameters(tool):
            try:
                check_schema(found[0][found[1]])
            except UsageError as error:
                raise UsageError(f"tools[{place}]: {error.message}", hint=error.hint) from None
