"""Which fields the requests of each endpoint may have, what they may hold, and why others are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llcuda.gateway import field_media as media
from llcuda.gateway.field_checks import (
    either,
    flag,
    ignored,
    invalid,
    items,
    list_of,
    mapping,
    number,
    one_of,
    only,
    text,
    texts,
    tokens,
    whole_number,
)
from llcuda.gateway.field_schemas import response_format, response_text, schema
from llcuda.options import OPTIONS, Option

if TYPE_CHECKING:
    from llcuda.gateway.endpoints import Endpoint
    from llcuda.gateway.field_checks import Check

__all__ = ["FIELDS", "REFUSED", "REQUIRED"]

MAX_CHOICES = 16
"""Answers to one prompt. Each takes a slot, and llama-server refuses more than it has."""
MAX_PROBABILITIES = 100
"""Alternatives of each token. At 100 bytes for each, a token's event comes to 10 kB."""
MAX_TOP_LOGPROBS = 20
"""OpenAI's own bound."""
MAX_STOPS = 32
"""Stop strings. The end of the text is held against each of them with every token."""
MAX_STOP_CHARACTERS = 1024
"""An answer is held back while it could still be the beginning of one."""
MAX_GRAMMAR_CHARACTERS = 64 << 10
"""llama-server parses a grammar before it answers anyone else; the largest of its own examples has 2 kB."""
MAX_BIASES = 1024
"""Biases of tokens. They are gone through with every token."""
MAX_BIAS_CHARACTERS = 256
"""A bias of a text is one of each of its tokens."""
MAX_SAMPLERS = 32
"""Twice as many as llama-server has."""
MAX_TOOLS = 128
"""OpenAI's own bound. Every tool makes the grammar of the answer longer."""
MAX_TEMPLATE_ARGUMENTS = 64
"""Arguments of the chat template. Templates use fewer than ten."""
MAX_DOCUMENTS = 2048
"""Texts to rank. Each is a request of its own that waits for a slot."""
MAX_EXTRA_FILES = 256
"""Files beside the one that is filled in; llama-server keeps of them what fits into the context."""
MAX_BREAKERS = 32
"""Strings that end a repetition; each is looked up in the whole vocabulary."""
MAX_NAME_CHARACTERS = 1024
"""Names and messages that a client chooses."""
MAX_TOKENIZED_CHARACTERS = 4 << 20
"""A text to tokenise, which llama-server does while everyone else waits."""
MAX_INDENT = 1024

_UNSUPPORTED = "llama-server does not do anything else"
_name = text(MAX_NAME_CHARACTERS)
_choices = whole_number(Option("int", low=1, high=MAX_CHOICES))
_probabilities = whole_number(OPTIONS["n_probs"], high=MAX_PROBABILITIES)
_max_tokens = whole_number(OPTIONS["max_tokens"])
_grammar = text(MAX_GRAMMAR_CHARACTERS)
_stop = texts(MAX_STOPS, most_characters=MAX_STOP_CHARACTERS)


def _tools(name: str, value: Any) -> None:
    """Take a list of tools, as each of the APIs writes them."""
    if type(value) is not list or len(value) > MAX_TOOLS:
        raise invalid(name, value, f"a list of at most {MAX_TOOLS} objects")
    for tool in value:
        if type(tool) is not dict or type(tool.get("function", {})) is not dict:
            raise invalid(name, tool, "a list of objects")


def _bias(name: str, value: Any) -> None:
    """Take biases as an object or as pairs: a number for a token or a text, or false to ban it."""
    pairs = value.items() if type(value) is dict else value
    if type(value) not in {dict, list} or len(value) > MAX_BIASES:
        raise invalid(name, value, f"an object or a list of at most {MAX_BIASES} pairs")
    for pair in pairs:
        if type(pair) not in {tuple, list} or len(pair) != 2 or not _is_bias(*pair):  # noqa: PLR2004
            raise invalid(name, pair, "pairs of a token or a short text, and a number or false")


def _is_bias(token: Any, bias: Any) -> bool:
    known = type(token) is int or (type(token) is str and len(token) <= MAX_BIAS_CHARACTERS)
    return known and (bias is False or type(bias) in {int, float})


def _of_options(*names: str) -> dict[str, Check]:
    """Return the checks of fields that are options of the client too, in the same ranges."""
    kinds = {"int": whole_number, "float": number}
    return {
        OPTIONS[name].field or name: kinds[OPTIONS[name].kind](OPTIONS[name])
        for name in names or OPTIONS
        if OPTIONS[name].kind in kinds and not OPTIONS[name].chat_only
    }


_SAMPLING: dict[str, Check] = {
    **{name: check for name, check in _of_options().items() if name not in {"id_slot", "max_tokens"}},
    "n_probs": _probabilities,
    "adaptive_target": number(Option("float", high=1)),
    "adaptive_decay": number(Option("float", low=0, high=0.99)),
    "cache_prompt": flag,
    "dry_sequence_breakers": list_of(MAX_BREAKERS, _name),
    "grammar": _grammar,
    "ignore_eos": flag,
    "json_schema": schema,
    "logit_bias": _bias,
    "max_tokens": _max_tokens,
    "n": _choices,
    "n_cmpl": _choices,
    "n_discard": whole_number(Option("int", low=0)),
    "n_indent": whole_number(Option("int", low=0, high=MAX_INDENT)),
    "n_predict": _max_tokens,
    "post_sampling_probs": flag,
    "return_progress": flag,
    "samplers": texts(MAX_SAMPLERS, most_characters=MAX_SAMPLERS),
    "stop": _stop,
    "stream": flag,
    "stream_options": mapping(4),
    "timings_per_token": flag,
}
_IGNORED: dict[str, Check] = {"metadata": ignored, "model": _name, "user": ignored}
_TEMPLATE: dict[str, Check] = {
    "add_generation_prompt": flag,
    "chat_template_kwargs": mapping(MAX_TEMPLATE_ARGUMENTS),
    "continue_final_message": one_of(True, False, "content", "reasoning_content"),
    "parallel_tool_calls": flag,
    "reasoning_effort": _name,
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


_CHAT: dict[str, Check] = {
    **_SAMPLING,
    **_TEMPLATE,
    **_IGNORED,
    "echo": flag,
    "audio": only(None, why=_UNSUPPORTED),
    "function_call": only("none", why="functions are given as tools"),
    "functions": only([], why="functions are given as tools"),
    "logprobs": flag,
    "max_completion_tokens": _max_tokens,
    "messages": media.conversation,
    "modalities": only(["text"], why=_UNSUPPORTED),
    "prediction": ignored,
    "prompt_cache_key": ignored,
    "prompt_cache_retention": ignored,
    "reasoning_budget_message": _name,
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
    **_SAMPLING,
    **_IGNORED,
    "best_of": only(1, why=_UNSUPPORTED),
    "echo": only(value=False, why=_UNSUPPORTED),
    "logprobs": _probabilities,
    "max_completion_tokens": _max_tokens,
    "prompt": media.prompts,
    "suffix": only("", why="the endpoint /infill fills text in"),
}
_COMPLETION: dict[str, Check] = {
    **_SAMPLING,
    **_IGNORED,
    "logprobs": _probabilities,
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
    name: check for name, check in _SAMPLING.items() if name not in {"n", "n_cmpl", "n_probs", "post_sampling_probs"}
}
_RESPONSES: dict[str, Check] = {
    **{name: check for name, check in _ALONE.items() if name not in {"json_schema", "max_tokens", "n_predict"}},
    **_TEMPLATE,
    **_IGNORED,
    "background": only(value=False, why=_UNSUPPORTED),
    "include": ignored,
    "input": media.response_input,
    "instructions": text(MAX_TOKENIZED_CHARACTERS),
    "max_output_tokens": _max_tokens,
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
    **_of_options("temperature", "top_p", "top_k"),
    "chat_template_kwargs": _TEMPLATE["chat_template_kwargs"],
    "max_tokens": _max_tokens,
    "messages": media.conversation,
    "metadata": mapping(8),
    "model": _name,
    "service_tier": ignored,
    "stop_sequences": _stop,
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
        "add_special": flag, "content": _mixed, "model": _name, "parse_special": flag, "with_pieces": flag,
    },
    "detokenize": {"model": _name, "tokens": tokens},
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
"""Fields that llama-server has and the gateway does not pass on, with the reason."""
