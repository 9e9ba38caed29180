"""The fields of Ollama's API. What they are translated to is checked again, within its own bounds."""

from __future__ import annotations

from llcuda.gateway.api.field_checks import (
    FLAG,
    IGNORED,
    Field,
    either,
    items,
    mapping,
    one_of,
    only,
    text,
    whole_number,
)
from llcuda.gateway.api.field_media import CONVERSATION, PROMPTS
from llcuda.gateway.api.field_sampling import NAME

__all__ = ["OLLAMA_FIELDS"]

MAX_OPTIONS = 64
"""Options of one request; Ollama has half as many."""
MAX_SCHEMA_NAMES = 1024
_MAX_CHARACTERS = 4 << 20
_MAX_LIST = 4096

_TEXT = text(_MAX_CHARACTERS)
_COMMON: dict[str, Field] = {
    "keep_alive": IGNORED,
    "model": NAME.required,
    "options": mapping(MAX_OPTIONS),
}
_GENERATING: dict[str, Field] = {
    **_COMMON,
    "format": either(one_of("", "json"), mapping(MAX_SCHEMA_NAMES), wanted="'json' or a schema"),
    "logprobs": FLAG,
    "shift": IGNORED,
    "stream": FLAG,
    "think": either(FLAG, NAME, wanted="true, false, or an effort"),
    "top_logprobs": whole_number(0, 20),
    "truncate": IGNORED,
}
_MESSAGES = either(only([], why="the model is loaded"), CONVERSATION, wanted=CONVERSATION.wanted)

OLLAMA_FIELDS: dict[str, dict[str, Field]] = {
    "ollama_chat": {
        **_GENERATING,
        "messages": _MESSAGES,
        "tools": either(only([], why="there is none"), items(_MAX_LIST), wanted="a list of tools"),
    },
    "ollama_generate": {
        **_GENERATING,
        "context": only([], why="no state is kept; send the turns before to /api/chat"),
        "height": only(None, why="no pictures are made"),
        "images": Field(
            lambda _, value: type(value) is list and all(type(one) is str for one in value),
            "a list of pictures as base64",
            {"type": "array", "items": {"type": "string"}},
        ),
        "prompt": _TEXT,
        "raw": FLAG,
        "steps": only(None, why="no pictures are made"),
        "suffix": _TEXT,
        "system": _TEXT,
        "template": only("", why="the model's own template is used"),
        "width": only(None, why="no pictures are made"),
    },
    "ollama_embed": {**_COMMON, "dimensions": whole_number(1), "input": PROMPTS.required, "truncate": IGNORED},
    "ollama_embeddings": {**_COMMON, "prompt": _TEXT.required},
}
"""The fields of each of Ollama's endpoints that a worker answers, by their names."""
