"""Prompts and messages as clients send them, with the media inside of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.api.field_checks import invalid, tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "MAX_MESSAGES",
    "MAX_PROMPTS",
    "conversation",
    "count_texts",
    "inputs",
    "prompt",
    "prompts",
    "response_input",
]

MAX_MESSAGES = 4096
"""The chat template is applied to all of them at each request, in time that grows with their number."""
MAX_PROMPTS = 64
"""Each is a request of its own that waits for a slot."""
MAX_INPUTS = 2048
"""The number of inputs that OpenAI's API takes for embeddings at once, which the libraries' batches keep to."""

# What llama-server reads media from, under its own names, OpenAI's and Anthropic's. All of them hold a string, or an
# object with one of _PLACES.
_MEDIA = frozenset({"image_url", "input_audio", "input_video", "source", "video_url"})
_PLACES = ("url", "data")
# Where a part of a message can have further parts: results of tools.
_NESTED = ("content", "output")


def conversation(name: str, value: Any) -> None:
    """Take a list of messages whose media are within the request."""
    if type(value) is not list or not 0 < len(value) <= MAX_MESSAGES:
        raise invalid(name, value, f"a list of 1 to {MAX_MESSAGES} messages")
    for message in value:
        if type(message) is not dict:
            raise invalid(name, message, "a list of objects")
        content = message.get("content")
        if type(content) is list:
            _check_parts(name, content)
        elif content is not None and type(content) is not str:
            raise invalid(f"{name}.content", content, "a string or a list of parts")


def response_input(name: str, value: Any) -> None:
    """Take the input of the Responses API: a string, or a list of items like messages."""
    if type(value) is str:
        return
    if type(value) is not list or not 0 < len(value) <= MAX_MESSAGES:
        raise invalid(name, value, f"a string or a list of 1 to {MAX_MESSAGES} items")
    _check_parts(name, value)


def prompt(name: str, value: Any) -> None:
    """Take one prompt: a string, tokens, both mixed, or an object with a string and media as base64."""
    if type(value) is str:
        return
    if type(value) is dict:
        _check_prompt_object(name, value)
    elif type(value) is list and value and type(value[0]) in {int, str}:
        tokens(name, [item for item in value if type(item) is not str])
    else:
        raise invalid(name, value, "a string, a list of tokens and strings, or an object with a prompt_string")


def prompts(name: str, value: Any) -> None:
    """Take one prompt or a list of them."""
    _check_each(name, value, MAX_PROMPTS)


def inputs(name: str, value: Any) -> None:
    """Take what embeddings are made of: one prompt or a list of them."""
    _check_each(name, value, MAX_INPUTS)


def count_texts(fields: Mapping[str, Any]) -> int:
    """Return how many texts a request asks for: its choices, for each of its prompts.

    By llama-server's rule a list with a number in it is one prompt.
    """
    value, choices = fields.get("prompt"), fields.get("n_cmpl") or fields.get("n") or 1
    prompts = len(value) if type(value) is list and not any(type(item) is int for item in value) else 1
    return int(choices) * prompts


def _check_each(name: str, value: Any, most: int) -> None:
    if type(value) is not list or any(type(item) is int for item in value):
        prompt(name, value)
        return
    if not 0 < len(value) <= most:
        raise invalid(name, value, f"one, or a list of at most {most}")
    for item in value:
        prompt(name, item)


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
    for part in parts:
        if type(part) is not dict:
            raise invalid(name, part, "a list of objects")
        for key in part.keys() & _MEDIA:
            _check_media(f"{name}.{key}", part[key])
        for key in _NESTED:
            if type(part.get(key)) is list:
                _check_parts(name, part[key])


def _check_media(name: str, media: Any) -> None:
    if type(media) is not dict:
        _check_source(name, media)
        return
    for place in _PLACES:
        if media.get(place) is not None:
            _check_source(f"{name}.{place}", media[place])


def _check_source(name: str, source: Any) -> None:
    """Refuse whatever is not the medium itself: llama-server would fetch ``http…`` and read ``file:``."""
    if type(source) is str and (source.startswith("data:") or not (":" in source or source.startswith("http"))):
        return
    raise RefusedError(
        400, f"{name} must be a data: URL: nothing is fetched for a request", code="invalid_value", param=name
    )
