"""Which fields the requests of each endpoint may have, and what they may hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llcuda.errors import UsageError
from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.api import field_media as media
from llcuda.gateway.api.field_checks import (
    either,
    flag,
    ignored,
    invalid,
    items,
    list_of,
    mapping,
    one_of,
    only,
    text,
    tokens,
    whole_number,
)
from llcuda.gateway.api.field_costs import SchemaCosts
from llcuda.gateway.api.field_sampling import (
    SAMPLING,
    max_tokens_check,
    name_check,
    of_options,
    probabilities_check,
    stop_check,
)
from llcuda.gateway.api.field_schemas import response_format, response_text
from llcuda.options import OPTIONS, Option

if TYPE_CHECKING:
    from llcuda.gateway.api.field_checks import Check
    from llcuda.gateway.http.endpoints import Endpoint

__all__ = ["FIELDS", "REFUSED", "REQUIRED"]

MAX_TOP_LOGPROBS = 20
"""OpenAI's own bound."""
MAX_TEMPLATE_ARGUMENTS = 64
"""Arguments of the chat template. Templates use fewer than ten."""
MAX_DOCUMENTS = 2048
"""Texts to rank. Each is a request of its own that waits for a slot."""
MAX_EXTRA_FILES = 256
"""Files beside the one that is filled in; llama-server keeps of them what fits into the context."""
MAX_TOKENIZED_CHARACTERS = 4 << 20
"""A text to tokenise, which llama-server does while everyone else waits."""
MAX_TOOLS = 128
"""OpenAI's own bound. Every tool makes the grammar of the answer longer."""
MAX_TOOL_NAME_CHARACTERS = 256
"""OpenAI's API takes 64. llama-server makes a rule's name of it with a recursion: 60,000 spaces were the end of it."""
MAX_PING_SECONDS = 30
"""llama-server's own interval: a stream that is silent for longer says less often that it is alive."""

_INTERNAL = "llama-server sets it for itself from the chat template"
REFUSED: dict[str, str] = {
    "backend_sampling": "where the sampling runs is settled when the gateway starts",
    "chat_format": _INTERNAL,
    "chat_parser": f"{_INTERNAL}; read from a client it has been a way into the server's memory (CVE-2026-107183)",
    "generation_prompt": _INTERNAL,
    "grammar_lazy": _INTERNAL,
    "grammar_triggers": f"{_INTERNAL}; a client's expressions would run without a bound",
    "grammar_type": _INTERNAL,
    "id_slot": "the gateway chooses the slot",
    "lora": "adapters are the same for everyone",
    "message_delimiters": _INTERNAL,
    "n_cache_reuse": "how the cache is used is settled when the gateway starts",
    "parse_tool_calls": _INTERNAL,
    "preserved_tokens": _INTERNAL,
    "reasoning_budget_end_tag": _INTERNAL,
    "reasoning_budget_end_tags": _INTERNAL,
    "reasoning_budget_start_tag": _INTERNAL,
    "reasoning_control": "the endpoint that ends the reasoning is not served",
    "response_fields": "the gateway reads from an answer how it ended, and its counts",
    "sse_ping_interval": "the gateway tells by the pings that a server is alive",
    "verbose": "it would show other fields' inner values in every answer",
}
"""The fields that llama-server has and the gateway does not pass on, or for the chat alone, and why."""

_UNSUPPORTED = "llama-server does not do anything else"


_tool_name = text(MAX_TOOL_NAME_CHARACTERS)


def _tools(name: str, value: Any) -> None:
    """Take a list of tools, as each of the APIs writes them, whose arguments llama-server can make a grammar of."""
    if type(value) is not list or len(value) > MAX_TOOLS:
        raise invalid(name, value, f"a list of at most {MAX_TOOLS} objects")
    costs = SchemaCosts()
    for place, tool in enumerate(value):
        if type(tool) is not dict or type(tool.get("function", {})) is not dict:
            raise invalid(name, tool, "a list of objects")
        function = tool.get("function", tool)
        if function.get("name") is not None:
            _tool_name(f"{name}[{place}].name", function["name"])
        parameters = function.get("parameters", function.get("input_schema"))
        if type(parameters) is dict:
            _check_parameters(f"{name}[{place}]", parameters, costs)


def _check_parameters(name: str, parameters: dict[str, Any], costs: SchemaCosts) -> None:
    try:
        costs.add(parameters)
    except UsageError as error:
        reason = ". ".join(filter(None, (f"the parameters of {name}: {error.message}", error.hint)))
        raise RefusedError(400, reason, code="invalid_schema", param=name) from None


_IGNORED: dict[str, Check] = {"metadata": ignored, "model": name_check, "user": ignored}
_TEMPLATE: dict[str, Check] = {
    "add_generation_prompt": flag,
    "chat_template_kwargs": mapping(MAX_TEMPLATE_ARGUMENTS),
    "continue_final_message": one_of(True, False, "content", "reasoning_content"),
    "parallel_tool_calls": flag,
    "reasoning_effort": name_check,
    "reasoning_format": one_of("none", "auto", "deepseek", "deepseek-legacy"),
}


_CHOICES = ("auto", "none", "required")


def _tool_choice(name: str, value: Any) -> None:
    """Take a word, or the name of one function, which llama-server itself would leave out of account."""
    if type(value) is dict:
        function = value.get("function", value) if value.get("type") == "function" else None
        if type(function) is dict and type(function.get("name")) is str:
            return
    elif value in _CHOICES:
        return
    raise invalid(name, value, "'auto', 'none', 'required', or an object that names a function")


# What the chat page sends with every question. The answer is the same with and without.
_CHAT_PAGE: dict[str, Check] = {
    "backend_sampling": only(value=False, why="where the sampling runs is settled when the gateway starts"),
    "reasoning_control": flag,
    "sse_ping_interval": whole_number(Option("int", low=1, high=MAX_PING_SECONDS)),
}
_CHAT: dict[str, Check] = {
    **SAMPLING,
    **_TEMPLATE,
    **_IGNORED,
    **_CHAT_PAGE,
    "echo": flag,
    "audio": only(None, why=_UNSUPPORTED),
    "function_call": only("none", why="functions are given as tools"),
    "functions": only([], why="functions are given as tools"),
    "logprobs": flag,
    "max_completion_tokens": max_tokens_check,
    "messages": media.conversation,
    "modalities": only(["text"], why=_UNSUPPORTED),
    "prediction": ignored,
    "prompt_cache_key": ignored,
    "prompt_cache_retention": ignored,
    "reasoning_budget_message": name_check,
    "reasoning_budget_tokens": whole_number(OPTIONS["reasoning_budget_tokens"]),
    "response_format": response_format,
    "safety_identifier": ignored,
    "service_tier": ignored,
    "store": ignored,
    "thinking_budget_tokens": whole_number(OPTIONS["reasoning_budget_tokens"]),
    "tool_choice": _tool_choice,
    "tools": _tools,
    "top_logprobs": whole_number(OPTIONS["n_probs"], high=MAX_TOP_LOGPROBS),
    "verbosity": ignored,
}
_COMPLETIONS: dict[str, Check] = {
    **SAMPLING,
    **_IGNORED,
    "best_of": only(1, why=_UNSUPPORTED),
    "echo": only(value=False, why=_UNSUPPORTED),
    "logprobs": probabilities_check,
    "max_completion_tokens": max_tokens_check,
    "prompt": media.prompts,
    "suffix": only("", why="the endpoint /infill fills text in"),
}
_COMPLETION: dict[str, Check] = {
    **SAMPLING,
    **_IGNORED,
    "logprobs": probabilities_check,
    "prompt": media.prompts,
    "return_tokens": flag,
}
_INFILL: dict[str, Check] = {
    **_COMPLETION,
    "input_extra": items(MAX_EXTRA_FILES),
    "input_prefix": text(MAX_TOKENIZED_CHARACTERS),
    "input_suffix": text(MAX_TOKENIZED_CHARACTERS),
    "prompt": text(MAX_TOKENIZED_CHARACTERS),
}
# Several answers, and probabilities, have no place in the answers of the next two APIs.
_ALONE = {
    name: check for name, check in SAMPLING.items() if name not in {"n", "n_cmpl", "n_probs", "post_sampling_probs"}
}
_RESPONSES: dict[str, Check] = {
    **{name: check for name, check in _ALONE.items() if name not in {"json_schema", "max_tokens", "n_predict"}},
    **_TEMPLATE,
    **_IGNORED,
    "background": only(value=False, why=_UNSUPPORTED),
    "include": ignored,
    "input": media.response_input,
    "instructions": text(MAX_TOKENIZED_CHARACTERS),
    "max_output_tokens": max_tokens_check,
    "previous_response_id": only("", why="no response is kept"),
    "prompt_cache_key": ignored,
    "prompt_cache_retention": ignored,
    "reasoning": mapping(8),
    "safety_identifier": ignored,
    "service_tier": ignored,
    "store": ignored,
    "text": response_text,
    "tool_choice": _tool_choice,
    "tools": _tools,
    "top_logprobs": only(0, why="a response has no probabilities"),
    "truncation": ignored,
}


_ANTHROPIC_CHOICES = ("auto", "any", "none", "tool")


def _anthropic_choice(name: str, value: Any) -> None:
    if type(value) is not dict or value.get("type") not in _ANTHROPIC_CHOICES:
        raise invalid(name, value, "an object whose type is auto, any, none or tool")
    if value["type"] == "tool" and type(value.get("name")) is not str:
        raise invalid(name, value, "an object with the name of a tool")


_MESSAGES: dict[str, Check] = {
    **of_options("temperature", "top_p", "top_k"),
    "chat_template_kwargs": _TEMPLATE["chat_template_kwargs"],
    "max_tokens": max_tokens_check,
    "messages": media.conversation,
    "metadata": mapping(8),
    "model": name_check,
    "service_tier": ignored,
    "stop_sequences": stop_check,
    "stream": flag,
    "system": either(text(MAX_TOKENIZED_CHARACTERS), items(MAX_TOOLS), wanted="a string or a list of texts"),
    "thinking": mapping(4),
    "tool_choice": _anthropic_choice,
    "tools": _tools,
}
_EMBEDDINGS: dict[str, Check] = {
    **_IGNORED,
    "content": media.inputs,
    "dimensions": only(None, why="a model has its own number of dimensions"),
    "embd_normalize": whole_number(Option("int", low=-1, high=1024)),
    "encoding_format": one_of("float", "base64"),
    "input": media.inputs,
}
_RERANK: dict[str, Check] = {
    **_IGNORED,
    "documents": list_of(MAX_DOCUMENTS, text(MAX_TOKENIZED_CHARACTERS)),
    "query": text(MAX_TOKENIZED_CHARACTERS),
    "return_documents": only(value=False, why="an answer has their positions"),
    "return_text": flag,
    "texts": list_of(MAX_DOCUMENTS, text(MAX_TOKENIZED_CHARACTERS)),
    "top_n": whole_number(Option("int", low=1)),
}
_mixed = either(tokens, text(MAX_TOKENIZED_CHARACTERS), media.prompt, wanted="a string, or tokens and strings")

FIELDS: dict[Endpoint, dict[str, Check]] = {
    "chat": _CHAT,
    "completions": _COMPLETIONS,
    "completion": _COMPLETION,
    "infill": _INFILL,
    "responses": _RESPONSES,
    "messages": _MESSAGES,
    "embeddings": {name: check for name, check in _EMBEDDINGS.items() if name != "content"},
    "embedding": _EMBEDDINGS,
    "rerank": _RERANK,
    "tokenize": {
        "add_special": flag, "content": _mixed, "model": name_check, "parse_special": flag, "with_pieces": flag,
    },
    "detokenize": {"model": name_check, "tokens": tokens},
    "apply_template": _CHAT,
    "chat_tokens": _CHAT,
    "responses_tokens": _RESPONSES,
    "messages_tokens": _MESSAGES,
}  # fmt: skip

REQUIRED: dict[Endpoint, tuple[str, ...]] = {
    "chat": ("messages",),
    "completions": ("prompt",),
    "completion": ("prompt",),
    "infill": ("input_prefix", "input_suffix"),
    "responses": ("input",),
    "messages": ("messages",),
    "embeddings": ("input",),
    "embedding": (),
    "rerank": ("query",),
    "tokenize": ("content",),
    "detokenize": ("tokens",),
    "apply_template": ("messages",),
    "chat_tokens": ("messages",),
    "responses_tokens": ("input",),
    "messages_tokens": ("messages",),
}
