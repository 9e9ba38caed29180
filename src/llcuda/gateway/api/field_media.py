"""Prompts and messages as clients send them, with the media inside of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.api.field_checks import TOKEN, TOKENS, Field, invalid, list_of
from llcuda.gateway.api.field_schemas import typed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llcuda.gateway.api.field_checks import Schema

__all__ = ["CHAT", "CONVERSATION", "PROMPTS", "RESPONSE_INPUT", "count_texts"]

MAX_MESSAGES = 4096
"""The chat template is applied to all of them at each request, in time that grows with their number."""
MAX_PROMPTS = 2048
"""As many as OpenAI's API takes, of embeddings too. Each is a request of its own that waits for a slot."""

# What llama-server reads media from, under its own names, OpenAI's and Anthropic's. All of them hold a string, or an
# object with one of _PLACES.
_MEDIA = frozenset({"image_url", "input_audio", "input_video", "source", "video_url"})
_PLACES = ("url", "data")
# Where a part of a message can have further parts: results of tools.
_NESTED = ("content", "output")

_TEXT: Schema = {"type": "string"}
_PART: Schema = {"anyOf": [{"not": {"type": "array"}}, {"type": "array", "items": {"type": "object"}}]}
_PARTS: Schema = {
    "type": "array",
    "items": {"type": "object", "properties": dict.fromkeys(_NESTED, _PART)},
    "description": "Media must be data: URLs; nothing is fetched.",
}
_ROLES: Schema = {"type": ["string", "null"]}
_ITEM: Schema = {**_PARTS["items"], "properties": {**_PARTS["items"]["properties"], "role": _ROLES}}
_MIXED: Schema = {"type": "array", "minItems": 1, "items": {"anyOf": [_TEXT, TOKEN]}}
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


def _takes_conversation(name: str, value: Any) -> bool:
    """Take a list of messages whose media are within the request."""
    if type(value) is not list or not 0 < len(value) <= MAX_MESSAGES:
        return False
    for at, message in enumerate(value):
        if type(message) is not dict:
            raise invalid(f"{name}[{at}]", message, "an object")
        _check_role(f"{name}[{at}].role", message.get("role"))
        content = message.get("content")
        if type(content) is list:
            _check_parts(f"{name}[{at}].content", content)
        elif content is not None and type(content) is not str:
            raise invalid(f"{name}[{at}].content", content, "a string or a list of parts")
    return True


_ROLE = "a string such as 'user'"
_STRINGS = ("name", "reasoning_content", "tool_call_id")
# What a part of each type holds, beside its type.
_PART_FIELDS = {
    "text": ("text", str),
    "image_url": ("image_url", dict),
    "input_audio": ("input_audio", dict),
    "input_video": ("input_video", dict),
    "video_url": ("video_url", dict),
}
_PART_TYPES = f"one of {', '.join(_PART_FIELDS)}"


def _takes_chat(name: str, value: Any) -> bool:
    """Take the messages of OpenAI's chat: whatever is wrong with one is named by its place."""
    if not _takes_conversation(name, value):
        return False
    for at, message in enumerate(value):
        role, content = message.get("role"), message.get("content")
        if role is None:
            raise _missing(f"{name}[{at}].role", role, _ROLE)
        if "content" not in message and (role != "assistant" or "tool_calls" not in message):
            raise _missing(f"{name}[{at}].content", None, "a string or a list of parts")
        for key in _STRINGS:
            if type(message.get(key, "")) is not str:
                raise invalid(f"{name}[{at}].{key}", message[key], "a string")
        if type(content) is list:
            for place, part in enumerate(content):
                _check_part(f"{name}[{at}].content[{place}]", part)
        if "tool_calls" in message:
            _check_calls(f"{name}[{at}].tool_calls", message["tool_calls"])
    return True


def _check_role(path: str, role: Any) -> None:
    if not isinstance(role, (str, type(None))):
        raise invalid(path, role, _ROLE)


def _check_part(path: str, part: dict[str, Any]) -> None:
    kind = part.get("type")
    if type(kind) is not str or kind not in _PART_FIELDS:
        raise _missing(f"{path}.type", kind, _PART_TYPES)
    name, wanted = _PART_FIELDS[kind]
    if type(part.get(name)) is not wanted:
        raise _missing(f"{path}.{name}", part.get(name), "a string" if wanted is str else "an object with a data: URL")


def _check_calls(path: str, calls: Any) -> None:
    if type(calls) is not list:
        raise invalid(path, calls, "a list of calls")
    for at, call in enumerate(calls):
        kind, function = (call.get("type"), call.get("function")) if type(call) is dict else (None, None)
        if type(function) is not dict or kind != "function":
            raise invalid(f"{path}[{at}]", call, "a call of a function: {'type': 'function', 'function': {...}}")
        if type(function.get("name")) is not str:
            raise _missing(f"{path}[{at}].function.name", function.get("name"), "a string")
        if type(call.get("id", "")) is not str:
            raise invalid(f"{path}[{at}].id", call["id"], "a string")


def _missing(path: str, value: Any, wanted: str) -> RefusedError:
    if value is not None:
        return invalid(path, value, wanted)
    return RefusedError(400, f"{path} is missing; it must be {wanted}", code="invalid_value", param=path)


def _takes_response_input(name: str, value: Any) -> bool:
    """Take the input of the Responses API: a string, or a list of items like messages."""
    if type(value) is list and 0 < len(value) <= MAX_MESSAGES:
        _check_parts(name, value)
        for at, item in enumerate(value):
            _check_role(f"{name}[{at}].role", item.get("role"))
        return True
    return type(value) is str


def _takes_prompt(name: str, value: Any) -> bool:
    """Take one prompt: a string, tokens, both mixed, or an object with a string and media as base64."""
    if type(value) is dict:
        _check_prompt_object(name, value)
        return True
    if type(value) is list and value and type(value[0]) in {int, str}:
        TOKENS.check(name, [item for item in value if type(item) is not str])
        return True
    return type(value) is str


def _takes_prompts(name: str, value: Any) -> bool:
    """Take one prompt or a list of them: a list with a number in it is one."""
    if type(value) is list and not any(type(item) is int for item in value):
        return _SEVERAL.takes(name, value)
    _PROMPT.check(name, value)
    return True


CONVERSATION = Field(
    _takes_conversation,
    f"a list of 1 to {MAX_MESSAGES} messages",
    {
        "type": "array",
        "minItems": 1,
        "maxItems": MAX_MESSAGES,
        "items": {
            "type": "object",
            "properties": {"role": _ROLES, "content": {"anyOf": [_TEXT, {"type": "null"}, _PARTS]}},
        },
    },
)
_CALL = typed("function", function={"type": "object", "required": ["name"], "properties": {"name": _TEXT}}, id=_TEXT)
_CHAT_PARTS: Schema = {
    "type": "array",
    "items": {
        "anyOf": [
            typed(kind, **{name: _TEXT if wanted is str else {"type": "object"}})
            for kind, (name, wanted) in _PART_FIELDS.items()
        ]
    },
    "description": _PARTS["description"],
}
_CHAT_MESSAGE: Schema = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": _TEXT,
        "content": {"anyOf": [_TEXT, {"type": "null"}, _CHAT_PARTS]},
        **dict.fromkeys(_STRINGS, _TEXT),
        "tool_calls": {"type": "array", "items": {**_CALL, "required": ["type", "function"]}},
    },
    "anyOf": [
        {"required": ["content"]},
        {"required": ["tool_calls"], "properties": {"role": {"const": "assistant"}}},
    ],
}
CHAT = replace(CONVERSATION, takes=_takes_chat, schema={**CONVERSATION.schema, "items": _CHAT_MESSAGE})
RESPONSE_INPUT = Field(
    _takes_response_input,
    f"a string or a list of 1 to {MAX_MESSAGES} items",
    {"anyOf": [_TEXT, {**_PARTS, "items": _ITEM, "minItems": 1, "maxItems": MAX_MESSAGES}]},
)
_PROMPT = Field(
    _takes_prompt,
    "a string, a list of tokens and strings, or an object with a prompt_string",
    {"anyOf": [_TEXT, _MIXED, _MEDIA_PROMPT]},
)
_SEVERAL = list_of(MAX_PROMPTS, _PROMPT)
PROMPTS = Field(
    _takes_prompts,
    f"one, or a list of at most {MAX_PROMPTS}",
    {"anyOf": [_TEXT, _MEDIA_PROMPT, {**_MIXED, "contains": {"type": "integer"}}, _SEVERAL.schema]},
)


def count_texts(fields: Mapping[str, Any]) -> int:
    """Return how many texts a request asks for: its choices, for each of its prompts.

    By llama-server's rule a list with a number in it is one prompt.
    """
    value, choices = fields.get("prompt"), fields.get("n_cmpl") or fields.get("n") or 1
    prompts = len(value) if type(value) is list and not any(type(item) is int for item in value) else 1
    return int(choices) * prompts


def _check_prompt_object(name: str, value: dict[str, Any]) -> None:
    if type(value.get("content")) is list:
        _check_parts(name, value["content"])
    elif type(value.get("prompt_string")) is not str:
        raise invalid(name, value, "a string, a list of tokens, or an object with a prompt_string")
    data = value.get("multimodal_data")
    if data is None:
        return
    if type(data) is not list:
        raise invalid(f"{name}.multimodal_data", data, "a list of media as base64")
    for media in data:
        _check_source(f"{name}.multimodal_data", media)


def _check_parts(name: str, parts: list[Any]) -> None:
    for at, part in enumerate(parts):
        if type(part) is not dict:
            raise invalid(f"{name}[{at}]", part, "an object")
        for key in part.keys() & _MEDIA:
            media = part[key]
            sources = [(f".{place}", media.get(place)) for place in _PLACES] if type(media) is dict else [("", media)]
            for place, source in sources:
                if source is not None or not place:
                    _check_source(f"{name}[{at}].{key}{place}", source)
        for key in _NESTED:
            if type(part.get(key)) is list:
                _check_parts(f"{name}[{at}].{key}", part[key])


def _check_source(name: str, source: Any) -> None:
    """Refuse whatever is not the medium itself: llama-server would fetch ``http…`` and read ``file:``."""
    if type(source) is str and (source.startswith("data:") or not (":" in source or source.startswith("http"))):
        return
    raise RefusedError(
        400, f"{name} must be a data: URL: nothing is fetched for a request", code="invalid_value", param=name
    )
