"""The schemas of tools' arguments, as llama-server is sent them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llcuda.errors import UsageError
from llcuda.schema.check import check_schema
from llcuda.schema.constraint import constrain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["check_tools", "constrain_tools", "find_parameters"]


def find_parameters(tool: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return the name of a tool's field that has the schema of its arguments, and the schema; None if it has none."""
    function = tool.get("function") or tool
    for key in ("parameters", "input_schema"):
        if isinstance(function, dict) and function.get(key) and isinstance(function[key], dict):
            return key, function[key]
    return None


def constrain_tools(tools: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the tools with schemas that llama-server generates by. Raises UsageError as ``constrain`` does."""
    return [_constrain_tool(tool) for tool in tools]


def _constrain_tool(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    found = find_parameters(tool)
    if found is None:
        return tool
    changed = {found[0]: constrain(found[1], is_shown=True)}
    return {**tool, "function": {**tool["function"], **changed}} if tool.get("function") else {**tool, **changed}


def check_tools(tools: Iterable[Mapping[str, Any]]) -> None:
    """Check the schemas of tools. Raises UsageError that names the tool by its place."""
    for place, tool in enumerate(tools):
        if found := find_parameters(tool):
            try:
                check_schema(found[1])
            except UsageError as error:
                raise UsageError(f"tools[{place}]: {error.message}", hint=error.hint) from None
