"""The JSON schemas of requests' bodies, from the same tables that the bodies are held against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llcuda.gateway.api import field_media as media
from llcuda.gateway.api import field_sampling as sampling
from llcuda.gateway.api import field_tables as tables
from llcuda.gateway.api.field_checks import MAX_INT, describe, described, flag, ignored, tokens
from llcuda.gateway.api.field_schemas import response_format, response_text, schema
from llcuda.gateway.api.field_tables import FIELDS, REQUIRED

if TYPE_CHECKING:
    from llcuda.gateway.api.field_checks import Check, Schema
    from llcuda.gateway.http.endpoints import Endpoint

__all__ = ["describe_body"]

_OBJECT: Schema = {"type": "object"}
_TEXT: Schema = {"type": "string"}
_TOKEN: Schema = {"type": "integer", "minimum": 0, "maximum": MAX_INT}
_NESTED: Schema = {"anyOf": [{"not": {"type": "array"}}, {"type": "array", "items": _OBJECT}]}
_PARTS: Schema = {
    "type": "array",
    "items": {"type": "object", "properties": {"content": _NESTED, "output": _NESTED}},
    "description": "Media must be data: URLs; nothing is fetched.",
}
_MIXED: Schema = {"type": "array", "minItems": 1, "items": {"anyOf": [_TEXT, _TOKEN]}}
# A data: URL, or base64: neither another URL nor a file.
_MEDIUM: Schema = {"type": "string", "pattern": "^(data:|(?!http)[^:]*$)"}
_MEDIA_PROMPT: Schema = {
    "type": "object",
    "properties": {"multimodal_data": {"anyOf": [{"type": "array", "items": _MEDIUM}, {"type": "null"}]}},
    "anyOf": [
        {"required": ["prompt_string"], "properties": {"prompt_string": _TEXT}},
        {"required": ["content"], "properties": {"content": _PARTS}},
    ],
}
_PROMPT: Schema = {"anyOf": [_TEXT, _MIXED, _MEDIA_PROMPT]}


def _list(most: int, item: Schema, *, least: int = 1) -> Schema:
    return {"type": "array", "minItems": least, "maxItems": most, "items": item}


def _typed(kind: Any, **properties: Schema) -> Schema:
    """Return the schema of an object with this ``type``, and these properties, all of which it must have."""
    return {
        "type": "object",
        "required": ["type", *properties],
        "properties": {"type": kind if isinstance(kind, dict) else {"const": kind}, **properties},
    }


def _named(name: str) -> Schema:
    return {"type": "object", "required": [name], "properties": {name: _TEXT}}


def _prompts(most: int) -> Schema:
    """Describe one prompt or several: a list with a number in it is one."""
    one = {**_MIXED, "contains": {"type": "integer"}}
    return {"anyOf": [_TEXT, _MEDIA_PROMPT, one, _list(most, _PROMPT)]}


def _conversation() -> Schema:
    content = {"anyOf": [_TEXT, {"type": "null"}, _PARTS]}
    return _list(media.MAX_MESSAGES, {"type": "object", "properties": {"content": content}})


def _biases() -> Schema:
    most, limit = sampling.MAX_BIASES, sampling.MAX_BIAS
    text = {"type": "string", "maxLength": sampling.MAX_BIAS_CHARACTERS}
    bias = {"anyOf": [{"type": "number", "minimum": -limit, "maximum": limit}, {"const": False}]}
    token = {"anyOf": [{"type": "integer"}, text]}
    pair = {"type": "array", "prefixItems": [token, bias], "minItems": 2, "maxItems": 2}
    by_name = {"type": "object", "maxProperties": most, "propertyNames": text, "additionalProperties": bias}
    return {"anyOf": [by_name, {"type": "array", "maxItems": most, "items": pair}]}


def _tool_choice() -> Schema:
    by_name = _typed("function", name=_TEXT)
    return {
        "anyOf": [
            {"enum": ["auto", "none", "required"]},
            _typed("function", function=_named("name")),
            {**by_name, "not": {"required": ["function"]}},
        ]
    }


def _anthropic_choice() -> Schema:
    return {"anyOf": [_typed({"enum": ["auto", "any", "none"]}), _typed("tool", name=_TEXT)]}


def _tools() -> Schema:
    return _list(tables.MAX_TOOLS, {"type": "object", "properties": {"function": _OBJECT}}, least=0)


_OPTIONAL_SCHEMA: Schema = {"anyOf": [_OBJECT, {"type": "null"}]}


def _response_format() -> Schema:
    any_object = _typed("json_object")
    any_object["properties"]["schema"] = _OPTIONAL_SCHEMA
    wrapper = {"type": "object", "required": ["schema"], "properties": {"schema": _OBJECT}}
    return {"anyOf": [_typed("text"), any_object, _typed("json_schema", json_schema=wrapper)]}


def _response_text() -> Schema:
    wanted = [_typed({"enum": ["text", "json_object"]}), _typed("json_schema", schema=_OBJECT), {"type": "null"}]
    return {"type": "object", "properties": {"format": {"anyOf": wanted}}}


def _response_input() -> Schema:
    return {"anyOf": [_TEXT, {**_PARTS, "minItems": 1, "maxItems": media.MAX_MESSAGES}]}


_CHAT = FIELDS["chat"]
# The checks that are written out, and not made of a kind.
described(flag, lambda: {"type": "boolean"})
described(ignored, lambda: {"description": "Taken, and without an effect."})
described(tokens, lambda: {"type": "array", "items": _TOKEN})
described(media.conversation, _conversation)
described(media.inputs, lambda: _prompts(media.MAX_INPUTS))
described(media.prompt, lambda: _PROMPT)
described(media.prompts, lambda: _prompts(media.MAX_PROMPTS))
described(media.response_input, _response_input)
described(schema, lambda: {"type": "object", "description": "A JSON schema that answers can be held against."})
described(response_format, _response_format)
described(response_text, _response_text)
described(_CHAT["grammar"], lambda: {"type": "string", "maxLength": sampling.MAX_GRAMMAR_CHARACTERS})
described(_CHAT["logit_bias"], _biases)
described(_CHAT["tool_choice"], _tool_choice)
described(_CHAT["tools"], _tools)
described(FIELDS["messages"]["tool_choice"], _anthropic_choice)


def describe_body(endpoint: Endpoint) -> Schema:
    """Return the schema of an endpoint's body: its fields, those it must have, and no others."""
    required = REQUIRED[endpoint]
    fields = FIELDS[endpoint]
    properties = {
        name: describe(check) if name in required else _or_null(check) for name, check in sorted(fields.items())
    }
    body: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        body["required"] = list(required)
    if "grammar" in fields and "json_schema" in fields:
        body["not"] = {"required": ["grammar", "json_schema"], "properties": {"json_schema": _OBJECT}}
    return body


def _or_null(check: Check) -> Schema:
    """Describe a field that may be left out: null is the same."""
    wanted = describe(check)
    if check is ignored or wanted.get("const", 0) is None:
        return wanted
    kind = wanted.get("type")
    if isinstance(kind, str):
        return {**wanted, "type": [kind, "null"]}
    return {"anyOf": [wanted, {"type": "null"}]}
