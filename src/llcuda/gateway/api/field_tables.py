"""Which fields the requests of each endpoint may have, and what they may hold."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.api.field_checks import (
    FLAG,
    IGNORED,
    TOKEN,
    TOKENS,
    Field,
    either,
    invalid,
    items,
    list_of,
    mapping,
    matching,
    one_of,
    only,
    text,
    whole_number,
)
from llcuda.gateway.api.field_costs import SchemaCosts
from llcuda.gateway.api.field_media import CHAT, CONVERSATION, PROMPTS, RESPONSE_INPUT
from llcuda.gateway.api.field_ollama import OLLAMA_FIELDS
from llcuda.gateway.api.field_sampling import MAX_TOKENS, NAME, PROBABILITIES, SAMPLING, STOP, of_option
from llcuda.gateway.api.field_schemas import OUTPUT_CONFIG, RESPONSE_FORMAT, RESPONSE_TEXT, check_request_schema, typed

if TYPE_CHECKING:
    from llcuda.gateway.api.field_checks import Schema

__all__ = ["ELSEWHERE", "FIELDS", "REFUSED"]

MAX_TOP_LOGPROBS = 20
"""OpenAI's own bound."""
MAX_TEMPLATE_ARGUMENTS = 64
"""Arguments of the chat template. Templates use fewer than ten."""
MAX_DOCUMENTS = 2048
"""Texts to rank. Each is a request of its own that waits for a slot."""
MAX_EXTRA_FILES = 256
"""Files beside the one that is filled in; llama-server keeps of them what fits into the context."""
MAX_RESPONSE_FIELDS = 64
"""Names of the parts of an answer that are wanted; an answer has fewer."""
MAX_TOKENIZED_CHARACTERS = 4 << 20
"""A text to tokenise, which llama-server does while everyone else waits."""
MAX_TOOLS = 128
"""OpenAI's own bound. Every tool makes the grammar of the answer longer."""
MAX_TOOL_NAME_CHARACTERS = 256
"""OpenAI's API takes 64. llama-server makes a rule's name of it with a recursion: 60,000 spaces were the end of it."""
MAX_PING_SECONDS = 30
"""llama-server's own interval: a stream that is silent for longer says less often that it is alive."""

_AS_TOOLS = "give each function in tools, as {'type': 'function', 'function': …}"
_AS_FORMAT = "send a schema as response_format, {'type': 'json_schema', 'json_schema': {'schema': …}}"
_INTERNAL = "llama-server sets it for itself from the chat template"
REFUSED: dict[str, str] = {
    "backend_sampling": "where the sampling runs is settled when the gateway starts",
    "chat_format": _INTERNAL,
    "chat_parser": f"{_INTERNAL}; read from a client it has been a way into the server's memory (CVE-2026-107183)",
    "generation_prompt": _INTERNAL,
    "grammar_lazy": _INTERNAL,
    "grammar_triggers": f"{_INTERNAL}; a client's expressions would run without a bound",
    "grammar_type": _INTERNAL,
    "guided_choice": f"{_AS_FORMAT}, with an enum",
    "guided_grammar": "send it as grammar",
    "guided_json": _AS_FORMAT,
    "guided_regex": f"{_AS_FORMAT}, with a pattern",
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
    "sse_ping_interval": "the gateway tells by the pings that a server is alive",
    "structured_outputs": _AS_FORMAT,
    "verbose": "it would show other fields' inner values in every answer",
}
"""The fields that llama-server has and the gateway does not pass on, or for the chat alone, and why; and what
constrains an answer at other servers, because whoever sends that must not get an answer without."""
ELSEWHERE = frozenset({
    "add_bos_token", "api_server", "api_type", "ban_eos_token", "banned_strings", "custom_token_bans", "guidance_scale",
    "include_reasoning", "max_new_tokens", "max_tokens_second", "min_tokens", "mirostat_mode", "negative_prompt",
    "nsigma", "num_ctx", "num_predict", "rep_pen", "rep_pen_range", "rep_pen_slope", "repetition_penalty",
    "repetition_penalty_range", "sampler_seed", "skew", "skip_special_tokens", "smoothing_curve", "smoothing_factor",
    "stopping_strings", "tfs", "top_a", "truncation_length", "typical",
})  # fmt: skip
"""Fields of other servers, which programs that know several of them send to each: left out, however like ours."""

_TOOL_NAME = text(MAX_TOOL_NAME_CHARACTERS)
_LONG_TEXT = text(MAX_TOKENIZED_CHARACTERS)
_TEXT = {"type": "string"}


def _takes_tools(name: str, value: Any) -> bool:
    """Take a list of tools, as each of the APIs writes them, whose arguments llama-server can make a grammar of."""
    if type(value) is not list or len(value) > MAX_TOOLS:
        return False
    costs = SchemaCosts()
    for place, tool in enumerate(value):
        if type(tool) is not dict or type(tool.get("function", {})) is not dict:
            raise invalid(f"{name}[{place}]", tool, "an object")
        function = tool.get("function", tool)
        if function.get("name") is not None:
            _TOOL_NAME.check(f"{name}[{place}].name", function["name"])
        parameters = function.get("parameters", function.get("input_schema"))
        if not isinstance(function.get("description"), (str, type(None))):
            raise invalid(f"{name}[{place}].description", function["description"], "a string")
        if parameters is not None and type(parameters) is not dict:
            raise invalid(f"{name}[{place}].parameters", parameters, "a JSON schema, as an object")
        if parameters is not None:
            key = "parameters" if "parameters" in function else "input_schema"
            inside = ".function" if "function" in tool else ""
            check_request_schema(f"{name}[{place}]{inside}.{key}", parameters, costs=costs, is_shown=True)
    return True


def _takes_chat_tools(name: str, value: Any) -> bool:
    """Take the tools of OpenAI's chat: functions, each with a name."""
    if not _takes_tools(name, value):
        return False
    for place, tool in enumerate(value):
        if tool.get("type") != "function":
            raise invalid(f"{name}[{place}].type", tool.get("type"), "'function': there are no other tools here")
        if type(tool.get("function")) is not dict:
            raise RefusedError(
                400, f"{name}[{place}].function is missing", code="invalid_value", param=f"{name}[{place}].function"
            )
        _TOOL_NAME.check(f"{name}[{place}].function.name", tool["function"].get("name"))
    return True


_TOOLS = Field(
    _takes_tools,
    f"a list of at most {MAX_TOOLS} objects",
    {
        "type": "array",
        "minItems": 0,
        "maxItems": MAX_TOOLS,
        "items": {"type": "object", "properties": {"function": {"type": "object"}}},
    },
)
_ALLOWED: Schema = {
    "type": "object",
    "required": ["mode", "tools"],
    "properties": {
        "mode": {"enum": ["auto", "required"]},
        "tools": {"type": "array", "items": {"type": "object"}},
    },
}
_FUNCTION: Schema = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": _TOOL_NAME.schema, "description": {"type": ["string", "null"]}},
}
_CHAT_TOOLS = replace(
    _TOOLS, takes=_takes_chat_tools, schema={**_TOOLS.schema, "items": typed("function", function=_FUNCTION)}
)
# llama-server itself would ignore any other choice.
_TOOL_CHOICE = either(
    one_of("auto", "none", "required"),
    matching(
        {
            "anyOf": [
                typed("function", function={"type": "object", "required": ["name"], "properties": {"name": _TEXT}}),
                {**typed("function", name=_TEXT), "not": {"required": ["function"]}},
                typed("allowed_tools", allowed_tools=_ALLOWED),
                {**typed("allowed_tools"), **_ALLOWED},
            ]
        },
        wanted="an object that names a function",
    ),
    wanted="'auto', 'none', 'required', or an object that names a function or allowed_tools",
)
_ANTHROPIC_CHOICE = matching(
    {"anyOf": [typed({"enum": ["auto", "any", "none"]}), typed("tool", name=_TEXT)]},
    wanted="an object whose type is auto, any, none, or tool with the name of a tool",
)


def _ignored(names: str) -> dict[str, Field]:
    return dict.fromkeys(names.split(), IGNORED)


_IGNORED = {"model": NAME, **_ignored("metadata user")}
_TEMPLATE = {
    "add_generation_prompt": FLAG,
    "chat_template_kwargs": mapping(MAX_TEMPLATE_ARGUMENTS),
    "continue_final_message": one_of(True, False, "content", "reasoning_content"),
    "parallel_tool_calls": FLAG,
    "reasoning_effort": NAME,
    "reasoning_format": one_of("none", "auto", "deepseek", "deepseek-legacy"),
}
# What the chat page sends with every question. The answer is the same with and without.
_CHAT_PAGE = {
    "backend_sampling": only(value=False, why="where the sampling runs is settled when the gateway starts"),
    "reasoning_control": FLAG,
    "sse_ping_interval": whole_number(1, MAX_PING_SECONDS),
}
_CHAT = {
    **SAMPLING,
    **_TEMPLATE,
    **_IGNORED,
    **_CHAT_PAGE,
    **_ignored(
        "moderation prediction prompt_cache_key prompt_cache_options prompt_cache_retention safety_identifier "
        "service_tier store thinking verbosity"
    ),
    "echo": FLAG,
    "audio": only(None, why="the model answers in text; leave the field out"),
    "function_call": only("none", why=_AS_TOOLS),
    "functions": only([], why=_AS_TOOLS),
    "input": only(None, why="send the turns as messages, or the request to /v1/responses"),
    "logprobs": FLAG,
    "max_completion_tokens": MAX_TOKENS,
    "messages": CHAT.required,
    "modalities": only(["text"], why="the model answers in text"),
    "reasoning_budget_message": NAME,
    "reasoning_budget_tokens": of_option("reasoning_budget_tokens"),
    "response_format": RESPONSE_FORMAT,
    "thinking_budget_tokens": of_option("reasoning_budget_tokens"),
    "tool_choice": _TOOL_CHOICE,
    "tools": _CHAT_TOOLS,
    "top_logprobs": whole_number(0, MAX_TOP_LOGPROBS),
    "web_search_options": only(None, why="nothing is searched here; give the model what you found, or a tool"),
}
_COMPLETIONS = {
    **SAMPLING,
    **_IGNORED,
    "best_of": only(1, why="no answer is rated; leave it out, or make it equal to n"),
    "echo": only(value=False, why="put the prompt before the answer yourself"),
    "logprobs": PROBABILITIES,
    "max_completion_tokens": MAX_TOKENS,
    "prompt": PROMPTS.required,
    "suffix": only("", why="send prompt and suffix to /infill, as input_prefix and input_suffix"),
}
_COMPLETION = {**SAMPLING, **_IGNORED, "logprobs": PROBABILITIES, "prompt": PROMPTS.required, "return_tokens": FLAG}
# What llama.cpp's plugins for editors send with every request.
_EDITORS = {
    "id_slot": IGNORED,
    "response_fields": list_of(MAX_RESPONSE_FIELDS, NAME),
    "t_max_prompt_ms": IGNORED,
}
_INFILL = {
    **_COMPLETION,
    **_EDITORS,
    "input_extra": either(only([], why="there is none"), items(MAX_EXTRA_FILES), wanted="a list of files"),
    "input_prefix": _LONG_TEXT.required,
    "input_suffix": _LONG_TEXT.required,
    "prompt": _LONG_TEXT,
}
# Several answers, and probabilities, have no place in the answers of this API; its other names for the rest are below.
_NOT_OF_RESPONSES = {"json_schema", "max_tokens", "n", "n_cmpl", "n_predict", "n_probs", "post_sampling_probs"}
_RESPONSES = {
    **{name: field for name, field in SAMPLING.items() if name not in _NOT_OF_RESPONSES},
    **_TEMPLATE,
    **_IGNORED,
    **_ignored(
        "client_metadata context_management include max_tool_calls moderation prompt_cache_key prompt_cache_options "
        "prompt_cache_retention safety_identifier service_tier store truncation"
    ),
    "background": only(value=False, why="no response is kept; ask without it, and read the stream"),
    "conversation": only(None, why="no conversation is kept; send its turns as input"),
    "input": RESPONSE_INPUT.required,
    "instructions": _LONG_TEXT,
    "max_output_tokens": MAX_TOKENS,
    "previous_response_id": only("", why="no response is kept"),
    "prompt": only(None, why="no prompt is kept; send its text as instructions"),
    "reasoning": mapping(8),
    "text": RESPONSE_TEXT,
    "tool_choice": _TOOL_CHOICE,
    "tools": _TOOLS,
    "top_logprobs": only(0, why="a response has no probabilities"),
}
_MESSAGES = {
    **_ignored(
        "betas billing_policy cache_control compaction context_management diagnostics fallback_credit_token "
        "fallbacks inference_geo speed user_profile_id workspace_id service_tier"
    ),
    "container": only(None, why="no code is run here"),
    "mcp_servers": only([], why="no server is asked for a request; give its functions as tools"),
    "output_config": OUTPUT_CONFIG,
    "thread": only(None, why="no thread is kept; send its messages"),
    "temperature": SAMPLING["temperature"],
    "top_k": SAMPLING["top_k"],
    "top_p": SAMPLING["top_p"],
    "chat_template_kwargs": _TEMPLATE["chat_template_kwargs"],
    "max_tokens": MAX_TOKENS,
    "messages": CONVERSATION.required,
    "metadata": mapping(8),
    "model": NAME,
    "stop_sequences": STOP,
    "stream": FLAG,
    "system": either(_LONG_TEXT, only([], why="there is none"), items(MAX_TOOLS), wanted="a string or a list of texts"),
    "thinking": mapping(4),
    "tool_choice": _ANTHROPIC_CHOICE,
    "tools": _TOOLS,
}
_EMBEDDINGS = {
    **_IGNORED,
    "dimensions": whole_number(1),
    "embd_normalize": whole_number(-1, 1024),
    "encoding_format": one_of("float", "base64"),
    "input": PROMPTS.required,
}
_RERANK = {
    **_IGNORED,
    "documents": list_of(MAX_DOCUMENTS, _LONG_TEXT),
    "query": _LONG_TEXT.required,
    "return_documents": FLAG,
    "return_text": FLAG,
    "texts": list_of(MAX_DOCUMENTS, _LONG_TEXT),
    "top_n": whole_number(1),
}


def _takes_tokenized(_name: str, value: Any) -> bool:
    if type(value) is not list:
        return _LONG_TEXT.takes("", value)
    characters = sum(len(item) for item in value if type(item) is str)
    return characters <= MAX_TOKENIZED_CHARACTERS and TOKENS.takes("", [one for one in value if type(one) is not str])


_TOKENIZED = Field(
    _takes_tokenized,
    f"a string, or tokens and strings, of at most {MAX_TOKENIZED_CHARACTERS} characters in all",
    {"anyOf": [_LONG_TEXT.schema, {"type": "array", "items": {"anyOf": [_LONG_TEXT.schema, TOKEN]}}]},
)
_TOKENIZE = {
    "add_special": FLAG,
    "content": _TOKENIZED.required,
    "model": NAME,
    "parse_special": FLAG,
    "with_pieces": FLAG,
}

FIELDS: dict[str, dict[str, Field]] = {
    "chat": _CHAT,
    "completions": _COMPLETIONS,
    "completion": _COMPLETION,
    "infill": _INFILL,
    "responses": _RESPONSES,
    "messages": _MESSAGES,
    "embeddings": _EMBEDDINGS,
    "embedding": {**_EMBEDDINGS, "content": PROMPTS, "input": PROMPTS},
    "rerank": _RERANK,
    "tokenize": _TOKENIZE,
    "detokenize": {"model": NAME, "tokens": TOKENS.required},
    "apply_template": _CHAT,
    "chat_tokens": _CHAT,
    "responses_tokens": {**_RESPONSES, "personality": IGNORED},
    "messages_tokens": _MESSAGES,
    **OLLAMA_FIELDS,
}
"""The fields of each endpoint, by their names."""
