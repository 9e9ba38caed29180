"""What a request of Ollama's API asks for, as a request to llama-server."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llcuda.gateway.api.field_checks import invalid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["ForwardedRequest", "find_name", "translate"]

_RENAMED = {"num_predict": "max_tokens", "num_keep": "n_keep"}
# How a model is loaded is settled when the gateway starts.
_SETTLED = frozenset({
    "draft_num_predict", "embedding_only", "f16_kv", "logits_all", "low_vram", "main_gpu", "num_batch", "num_ctx",
    "num_gpu", "num_gqa", "num_thread", "numa", "penalize_newline", "rope_frequency_base", "rope_frequency_scale",
    "tfs_z", "use_mlock", "use_mmap", "vocab_only",
})  # fmt: skip
_NO_LIMIT = -1
_LATEST = ":latest"
_PASSED = ("logprobs", "top_logprobs")


@dataclass(frozen=True, slots=True)
class ForwardedRequest:
    """A request to llama-server: the endpoint whose fields it has, its path, and the fields."""

    endpoint: str
    path: str
    fields: dict[str, Any]


def translate(endpoint: str, fields: Mapping[str, Any]) -> ForwardedRequest:
    """Return what stands for a request of Ollama's API, whose fields were checked.

    Raises RefusedError (400) for what is within messages and is none of Ollama's.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    asked = _TRANSLATIONS[endpoint](given)
    asked.fields["model"] = find_name(given["model"])
    return asked


def find_name(given: str) -> str:
    """Return a model's name: Ollama's clients add a tag to those that have none."""
    return given.removesuffix(_LATEST)


def _chat(given: dict[str, Any]) -> ForwardedRequest:
    if not given.get("messages"):
        return _load()
    fields = _generating(given, schema="response_format")
    if given.get("tools"):
        fields["tools"] = given["tools"]
    return ForwardedRequest("chat", "/v1/chat/completions", {**fields, "messages": _to_messages(given["messages"])})


def _generate(given: dict[str, Any]) -> ForwardedRequest:
    prompt = given.get("prompt", "")
    if given.get("suffix"):
        fields = _generating(given, schema="json_schema")
        ends = {"input_prefix": prompt, "input_suffix": given["suffix"]}
        return ForwardedRequest("infill", "/infill", {**fields, **ends})
    if not prompt:
        return _load()
    if given.get("raw"):
        fields = _generating(given, schema="json_schema")
        return ForwardedRequest("completion", "/completion", {**fields, "prompt": prompt})
    system = [{"role": "system", "content": given["system"]}] if given.get("system") else []
    question = {"role": "user", "content": prompt, "images": given.get("images", [])}
    return _chat({**given, "messages": [*system, question]})


def _embed(given: dict[str, Any]) -> ForwardedRequest:
    dimensions = {"dimensions": given["dimensions"]} if "dimensions" in given else {}
    texts = given.get("input", given.get("prompt"))
    return ForwardedRequest("embeddings", "/v1/embeddings", {"input": texts, **dimensions})


def _load() -> ForwardedRequest:
    """Return a request that takes no time: without a prompt, Ollama loads the model and says so."""
    return ForwardedRequest("tokenize", "/tokenize", {"content": ""})


_TRANSLATIONS: dict[str, Callable[[dict[str, Any]], ForwardedRequest]] = {
    "ollama_chat": _chat,
    "ollama_generate": _generate,
    "ollama_embed": _embed,
    "ollama_embeddings": _embed,
}


def _generating(given: dict[str, Any], *, schema: str) -> dict[str, Any]:
    """Return the fields that say how a text is generated; ``schema`` names the one for the answer's format."""
    fields: dict[str, Any] = {}
    for name, value in given.get("options", {}).items():
        if name not in _SETTLED and value is not None:
            fields[_RENAMED.get(name, name)] = value
    fields["stream"] = given.get("stream", True)
    limit = fields.get("max_tokens")
    if type(limit) is int and limit < _NO_LIMIT:
        fields["max_tokens"] = _NO_LIMIT
    if wanted := given.get("format"):
        document = {"type": "object"} if wanted == "json" else wanted
        fields[schema] = document if schema == "json_schema" else _to_format(wanted)
    if schema == "response_format":
        fields |= {name: given[name] for name in _PASSED if name in given}
        fields |= _think(given.get("think"))
    return fields


def _to_format(wanted: str | dict[str, Any]) -> dict[str, Any]:
    if type(wanted) is str:
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": wanted}}


def _think(wanted: bool | str | None) -> dict[str, Any]:  # noqa: FBT001 - the field's value
    if wanted is None:
        return {}
    effort = {"reasoning_effort": wanted} if type(wanted) is str else {}
    return {"chat_template_kwargs": {"enable_thinking": bool(wanted)}, **effort}


def _to_messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages in OpenAI's words, in which a call has a name of its own that its result repeats."""
    open_calls: list[str] = []
    return [_to_message(f"messages[{place}]", message, open_calls) for place, message in enumerate(messages)]


def _to_message(name: str, message: dict[str, Any], open_calls: list[str]) -> dict[str, Any]:
    written = {"role": message.get("role"), "content": _to_content(name, message)}
    if message.get("thinking"):
        written["reasoning_content"] = message["thinking"]
    if message.get("tool_calls"):
        written["tool_calls"] = _to_calls(f"{name}.tool_calls", message["tool_calls"], name)
        open_calls[:] = [call["id"] for call in written["tool_calls"]]
    if message.get("role") == "tool":
        written["tool_call_id"] = open_calls.pop(0) if open_calls else "call"
        if message.get("tool_name"):
            written["name"] = message["tool_name"]
    return written


def _to_content(name: str, message: dict[str, Any]) -> Any:
    content, images = message.get("content") or "", message.get("images")
    if not images:
        return content
    if type(images) is not list or any(type(image) is not str for image in images):
        raise invalid(f"{name}.images", images, "a list of pictures as base64")
    # Which kind of picture it is, llama-server sees for itself.
    parts = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}} for image in images]
    return [{"type": "text", "text": content}, *parts]


def _to_calls(name: str, calls: Any, message: str) -> list[dict[str, Any]]:
    if type(calls) is not list:
        raise invalid(name, calls, "a list of calls")
    return [_to_call(f"{name}[{place}]", call, f"{message}_{place}") for place, call in enumerate(calls)]


def _to_call(name: str, call: Any, identity: str) -> dict[str, Any]:
    function = call.get("function") if type(call) is dict else None
    if type(function) is not dict or type(function.get("name")) is not str:
        raise invalid(name, call, "an object with a function that has a name")
    arguments = function.get("arguments", {})
    text = arguments if type(arguments) is str else json.dumps(arguments, ensure_ascii=False)
    return {"id": identity, "type": "function", "function": {"name": function["name"], "arguments": text}}
