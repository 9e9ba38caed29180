"""The JSON schema that a request wants its answer to hold to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llcuda.errors import UsageError
from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.api.field_checks import Field, invalid
from llcuda.gateway.api.field_costs import SchemaCosts
from llcuda.schema.check import check_schema
from llcuda.schema.constraint import constrain

if TYPE_CHECKING:
    from llcuda.gateway.api.field_checks import Schema

__all__ = ["OUTPUT_CONFIG", "RESPONSE_FORMAT", "RESPONSE_TEXT", "SCHEMA", "check_request_schema", "typed"]

MAX_SCHEMA_CHARACTERS = 64 << 10
"""llama-server makes a grammar of it before it answers anyone else, and every answer is held against it."""
MAX_PATTERNS = 64
"""Patterns in a schema, each of which has at most 4000 states."""

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_FORMATS = ("text", "json_object", "json_schema")
_WANTED = f"an object whose type is one of {', '.join(_FORMATS)}"
_OBJECT: Schema = {"type": "object"}
_NULL: Schema = {"type": "null"}


def typed(kind: str | Schema, **properties: Schema) -> Schema:
    """Return the schema of an object with this ``type``, and these properties, all of which it must have."""
    return {
        "type": "object",
        "required": ["type", *properties],
        "properties": {"type": {"const": kind} if isinstance(kind, str) else kind, **properties},
    }


def _takes_schema(name: str, value: Any) -> bool:
    if type(value) is not dict:
        raise RefusedError(400, f"{name} must be an object", code="invalid_schema", param=name)
    check_request_schema(name, value, costs=SchemaCosts())
    return True


def check_request_schema(name: str, value: dict[str, Any], *, costs: SchemaCosts, is_shown: bool = False) -> None:
    """Check that answers can be held against a schema, and that llama-server can generate by what it is sent of it.

    Raises RefusedError (400, ``invalid_schema``).
    """
    try:
        _check_size(len(_encode(value)))
        check_schema(value, max_patterns=MAX_PATTERNS)
        costs.add(constrain(value, is_shown=is_shown))
    except UsageError as error:
        reason = ". ".join(filter(None, (f"{name}: {error.message}", error.hint)))
        raise RefusedError(400, reason, code="invalid_schema", param=name) from None
    except RecursionError:
        raise RefusedError(400, f"{name} is nested too deeply", code="invalid_schema", param=name) from None


def _check_size(size: int) -> None:
    if size > MAX_SCHEMA_CHARACTERS:
        raise UsageError(f"the schema has {size} characters, and may have {MAX_SCHEMA_CHARACTERS}")


def _takes_format(name: str, value: Any) -> bool:
    """Take the formats of OpenAI's chat: ``text``, ``json_object`` and ``json_schema``."""
    if type(value) is not dict or value.get("type") not in _FORMATS:
        return False
    if value["type"] == "json_schema":
        wrapper = value.get("json_schema")
        _takes_schema(f"{name}.json_schema.schema", wrapper.get("schema") if type(wrapper) is dict else None)
    elif value["type"] == "json_object" and value.get("schema") is not None:
        _takes_schema(f"{name}.schema", value["schema"])
    return True


def _takes_output_config(name: str, value: Any) -> bool:
    """Take ``output_config`` of Anthropic's API, whose ``format`` is a schema or none."""
    return _takes_text(name, value) and (value.get("format") or {"type": "json_schema"})["type"] == "json_schema"


def _takes_text(name: str, value: Any) -> bool:
    """Take ``text`` of the Responses API, whose ``format`` is a schema without OpenAI's wrapper around it."""
    if type(value) is not dict:
        return False
    wanted = value.get("format")
    if wanted is not None and (type(wanted) is not dict or wanted.get("type") not in _FORMATS):
        raise invalid(f"{name}.format", wanted, _WANTED)
    if wanted is not None and wanted["type"] == "json_schema":
        _takes_schema(f"{name}.format.schema", wanted.get("schema"))
    return True


SCHEMA = Field(
    _takes_schema, "a schema", {"type": "object", "description": "A JSON schema that answers can be held against."}
)
RESPONSE_FORMAT = Field(
    _takes_format,
    _WANTED,
    {
        "anyOf": [
            typed("text"),
            {
                "type": "object",
                "required": ["type"],
                "properties": {"type": {"const": "json_object"}, "schema": {"anyOf": [_OBJECT, _NULL]}},
            },
            typed(
                "json_schema",
                json_schema={"type": "object", "required": ["schema"], "properties": {"schema": _OBJECT}},
            ),
        ]
    },
)
_TEXT_FORMATS = [typed({"enum": ["text", "json_object"]}), typed("json_schema", schema=_OBJECT), _NULL]
OUTPUT_CONFIG = Field(
    _takes_output_config,
    "an object whose format is a json_schema",
    {"type": "object", "properties": {"format": {"anyOf": [_TEXT_FORMATS[1], _NULL]}}},
)
RESPONSE_TEXT = Field(_takes_text, "an object", {"type": "object", "properties": {"format": {"anyOf": _TEXT_FORMATS}}})
