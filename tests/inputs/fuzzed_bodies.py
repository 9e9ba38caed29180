"""Requests out of chance, a family for each part of a request, most of which the gateway takes.

A seed makes the same ones again. Answers are short: what is looked for is what a body does to the server.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.inputs.fuzzed_schemas import SPECIAL, choose_grammar, choose_schema, choose_text, choose_value

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

__all__ = ["FAMILIES", "Fuzzed", "choose_body", "choose_prompt_list"]

_MAX_TOKENS = (0, 1, 1, 1, 2, 3, 4, 8, 16)
_CONTEXT = 1024
_VOCABULARY = 768
_COSTLY_NAMES = 50_000


@dataclass(frozen=True, slots=True)
class Fuzzed:
    """A request."""

    path: str
    body: dict[str, Any]


def choose_body(chance: Random, family: str, *, model: str = "demo", is_costly: bool = False) -> Fuzzed:
    """Return a request of a family; ``is_costly`` lets a few in a hundred cost what they can."""
    fuzzed = FAMILIES[family](chance, is_costly=is_costly)
    fuzzed.body["model"] = model
    if fuzzed.path in _GENERATING and chance.random() < 0.3:
        fuzzed.body["stream"] = True
    if is_costly and chance.random() < 0.002:
        fuzzed.body["metadata"] = {f"n{number}": number for number in range(_COSTLY_NAMES)}
    if chance.random() < 0.03:
        fuzzed.body[chance.choice((*fuzzed.body, "unknown"))] = choose_value(chance)
    if chance.random() < 0.2:
        _spoil(chance, fuzzed.body)
    return fuzzed


def _spoil(chance: Random, body: dict[str, Any]) -> None:
    """Change one thing somewhere inside: a name or an item that is gone, null, twice, or something else."""
    container: Any = body
    for _ in range(chance.randrange(1, 7)):
        inner = [value for value in _values(container) if type(value) in {dict, list} and value]
        if not inner:
            break
        container = chance.choice(inner)
    if container is body:
        return
    place = chance.choice(tuple(container) if type(container) is dict else range(len(container)))
    kind = chance.randrange(5)
    if kind == 0:
        del container[place]
    elif kind == 1:
        container[place] = None
    elif kind == 2:
        container[place] = chance.choice(("", "{", "text", "function", [], {}, 0, True, [{}], [None]))
    elif type(container) is list:
        container.append(container[place] if kind == 3 else choose_value(chance))
    else:
        container[chance.choice(_NAMES)] = container[place] if kind == 3 else choose_value(chance)


def _values(container: Any) -> list[Any]:
    return list(container.values()) if type(container) is dict else container


def choose_prompt_list(chance: Random, *, model: str = "demo") -> Fuzzed:
    """Return several prompts with several answers each, which share what llama-server has read."""
    prompts = [chance.choice(("a", "b", choose_text(chance) or "c")) for _ in range(chance.randrange(1, 5))]
    body = {"model": model, "prompt": prompts, "n": chance.randrange(1, 5), "max_tokens": chance.choice((1, 1, 2, 3))}
    if chance.random() < 0.3:
        body["cache_prompt"] = chance.random() < 0.5
    return Fuzzed(chance.choice(("/v1/completions", "/completion")), body)


def _message(chance: Random) -> dict[str, Any]:
    role = chance.choice(("user", "user", "assistant", "assistant", "system", "tool", "developer", choose_text(chance)))
    message: dict[str, Any] = {"role": role, "content": _content(chance)}
    if role == "assistant" and chance.random() < 0.3:
        arguments = chance.choice(("{}", '{"a": 1, "b": 2}', "{", "", choose_text(chance), {"a": 1}))
        call = {"id": "1", "type": "function", "function": {"name": chance.choice(("add", "")), "arguments": arguments}}
        message["tool_calls"] = [call] * chance.choice((0, 1, 1, 2))
    if role == "tool":
        message["tool_call_id"] = chance.choice(("1", "", choose_text(chance)))
    if chance.random() < 0.05:
        message["reasoning_content"] = choose_text(chance)
    if chance.random() < 0.05:
        del message[chance.choice(tuple(message))]
    if chance.random() < 0.03:
        message[chance.choice(("name", "content", "tool_calls", "prefix"))] = choose_value(chance)
    return message


def _content(chance: Random) -> Any:
    if chance.random() < 0.15:
        return chance.choice(SPECIAL)
    if chance.random() < 0.8:
        return choose_text(chance)
    parts: list[dict[str, Any]] = [{"type": "text", "text": choose_text(chance)} for _ in range(chance.randrange(3))]
    if chance.random() < 0.2:
        parts.append({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}})
    return chance.choice((parts, parts, None))


def _messages(chance: Random) -> list[dict[str, Any]]:
    count = chance.choice((1, 1, 2, 3, 5, 0 if chance.random() < 0.05 else 1))
    return [_message(chance) for _ in range(count)]


def _make_messages(chance: Random, *, is_costly: bool) -> Fuzzed:
    path = chance.choice((*[_CHAT] * 6, "/v1/messages", "/v1/responses", "/apply-template", f"{_CHAT}/input_tokens"))
    if path == "/v1/messages":
        system = chance.choice((choose_text(chance), [{"type": "text", "text": choose_text(chance)}]))
        body: dict[str, Any] = {"messages": _messages(chance), "max_tokens": _limit(chance) or 1, "system": system}
    elif path == "/v1/responses":
        items = [{**message, "type": chance.choice(("message", "message", ""))} for message in _messages(chance)]
        turns: Any = choose_text(chance) if chance.random() < 0.3 else items
        body = {"input": turns, "max_output_tokens": _limit(chance), "instructions": choose_text(chance)}
    else:
        body = {"messages": _messages(chance), "max_tokens": _limit(chance)}
        if chance.random() < 0.4:
            body |= _hold_to_something(chance, is_costly=False)
        if chance.random() < 0.2:
            body["continue_final_message"] = chance.choice((True, False, "content", "reasoning_content"))
        if chance.random() < 0.2:
            body["add_generation_prompt"] = chance.random() < 0.5
        if chance.random() < 0.1:
            body["chat_template_kwargs"] = {"enable_thinking": choose_value(chance), "tools": choose_value(chance)}
        if chance.random() < 0.1:
            body["reasoning_format"] = chance.choice(("none", "auto", "deepseek", "deepseek-legacy"))
    if is_costly and chance.random() < 0.01 and path == _CHAT:
        body["messages"] = [{"role": "user", "content": "a"}] * chance.choice((500, 4000))
    return Fuzzed(path, body)


def _hold_to_something(chance: Random, *, is_costly: bool) -> dict[str, Any]:
    """Return what an answer is to be: by a schema, or by a grammar."""
    schema = chance.choice(({"type": "integer"}, choose_schema(chance, is_costly=is_costly)))
    kind = chance.randrange(4)
    if kind == 0:
        return {"json_schema": schema}
    if kind == 1:
        named = {"name": "x", "schema": schema, "strict": chance.random() < 0.5}
        return {"response_format": {"type": "json_schema", "json_schema": named}}
    if kind == 2:
        return {"response_format": {"type": "json_object", **({"schema": schema} if chance.random() < 0.5 else {})}}
    return {"grammar": choose_grammar(chance, is_costly=is_costly)}


def _tool(chance: Random, *, is_costly: bool) -> dict[str, Any]:
    name = chance.choice(("add", "get_weather", "", "a b", "é", '"', "x" * 100, chance.choice(SPECIAL)))
    function: dict[str, Any] = {"name": name, "description": choose_text(chance)}
    if chance.random() < 0.9:
        function["parameters"] = choose_schema(chance, is_costly=is_costly)
    if chance.random() < 0.2:
        function["strict"] = chance.random() < 0.5
    return {"type": "function", "function": function} if chance.random() < 0.95 else {"type": "function", **function}


def _make_tools(chance: Random, *, is_costly: bool) -> Fuzzed:
    tools = [_tool(chance, is_costly=is_costly) for _ in range(chance.choice((0, 1, 1, 2, 4, 12)))]
    if is_costly and chance.random() < 0.01:
        tools = (tools or [_tool(chance, is_costly=True)]) * 128
        tools = [{**tool, "function": {"name": f"f{number}"}} for number, tool in enumerate(tools[:128])]
    named = {"type": "function", "function": {"name": chance.choice(("add", "get_weather", "none"))}}
    body: dict[str, Any] = {
        "messages": _messages(chance) if chance.random() < 0.6 else [{"role": "user", "content": "What is 2+2?"}],
        "tools": tools,
        "tool_choice": chance.choice(("auto", "none", "required", "required", named)),
        "max_tokens": _limit(chance),
    }
    if chance.random() < 0.3:
        body["parallel_tool_calls"] = chance.random() < 0.5
    if chance.random() < 0.15:
        body |= _hold_to_something(chance, is_costly=False)
    return Fuzzed(_CHAT, body)


def _make_schemas(chance: Random, *, is_costly: bool) -> Fuzzed:
    schema = choose_schema(chance, depth=chance.choice((1, 2, 3, 5, 12)), is_costly=is_costly)
    path = chance.choice((_CHAT, _CHAT, "/completion", "/v1/completions", "/v1/responses", "/infill"))
    if path == "/v1/responses":
        wanted = {"type": "json_schema", "name": "x", "schema": schema}
        limit = {"max_output_tokens": _limit(chance)}
        return Fuzzed(path, {"input": choose_text(chance), "text": {"format": wanted}, **limit})
    body: dict[str, Any] = {"json_schema": schema, "max_tokens": _limit(chance)}
    if path == _CHAT and chance.random() < 0.5:
        wanted = {"type": "json_schema", "json_schema": {"schema": schema}}
        body = {"response_format": wanted, "max_tokens": _limit(chance)}
    return Fuzzed(path, {**body, **_ask_something(chance, path)})


def _make_grammars(chance: Random, *, is_costly: bool) -> Fuzzed:
    path = chance.choice((_CHAT, "/completion", "/v1/completions", "/infill"))
    body = {"grammar": choose_grammar(chance, is_costly=is_costly), "max_tokens": _limit(chance)}
    if chance.random() < 0.2:
        body["n"] = chance.randrange(1, 5)
    return Fuzzed(path, {**body, **_ask_something(chance, path)})


def _ask_something(chance: Random, path: str) -> dict[str, Any]:
    if path == _CHAT:
        known = [{"role": "user", "content": "What is 2+2?"}]
        return {"messages": _messages(chance) if chance.random() < 0.3 else known}
    if path == "/infill":
        return {"input_prefix": choose_text(chance), "input_suffix": choose_text(chance)}
    return {"prompt": choose_text(chance) or "a"}


def _limit(chance: Random) -> int:
    return chance.choice(_MAX_TOKENS)


def _make_sampling(chance: Random, *, is_costly: bool) -> Fuzzed:
    path = chance.choice((_CHAT, _CHAT, "/completion", "/v1/completions", "/infill"))
    names = chance.sample(tuple(_SAMPLING), chance.choice((1, 2, 3, 6, 15, len(_SAMPLING))))
    body = {name: _SAMPLING[name](chance) for name in names}
    if is_costly and chance.random() < 0.01:
        biases = [[token % _VOCABULARY, -100] for token in range(1024)]
        body |= {"logit_bias": biases, "stop": ["a" * 1024] * 32, "n_probs": 100}
    if chance.random() < 0.05 and names:
        body[names[0]] = choose_value(chance)
    if path == _CHAT:
        body.pop("n_probs", None)
        body |= {"logprobs": True, "top_logprobs": chance.randrange(21)} if chance.random() < 0.3 else {}
    return Fuzzed(path, {**body, "max_tokens": _limit(chance), **_ask_something(chance, path)})


def _within(low: float, high: float) -> Callable[[Random], float]:
    return lambda chance: chance.choice((low, high, round(chance.uniform(low, high), 3)))


def _whole(low: int, *highs: int) -> Callable[[Random], int]:
    return lambda chance: chance.choice((low, *highs, chance.randint(low, highs[0])))


def _flag(chance: Random) -> bool:
    return chance.random() < 0.5


def _bias(chance: Random) -> Any:
    tokens = [
        chance.choice((chance.randrange(_VOCABULARY), choose_text(chance, pieces=1)[:200] or "a"))
        for _ in range(chance.randrange(5))
    ]
    pairs = [[token, chance.choice((False, -1e4, 1e4, 0, 1.5))] for token in tokens]
    return {str(token): bias for token, bias in pairs} if chance.random() < 0.4 else pairs


def _strings(chance: Random) -> Any:
    texts = [choose_text(chance)[:1000] or "x" for _ in range(chance.randrange(1, 5))]
    return texts[0] if chance.random() < 0.3 else texts


_SAMPLERS = (
    "dry", "top_k", "typ_p", "top_p", "top_n_sigma", "min_p", "temperature", "xtc", "infill", "penalties", "adaptive_p",
)  # fmt: skip
_SAMPLING: dict[str, Callable[[Random], Any]] = {
    "temperature": _within(0, 3e38),
    "top_p": _within(1e-9, 1),
    "top_k": _whole(0, 40, 768, 2**31 - 1),
    "min_p": _within(0, 1),
    "seed": _whole(-1, 2**31 - 1, 2**32 - 1),
    "stop": _strings,
    "repeat_penalty": _within(1e-30, 3e38),
    "repeat_last_n": _whole(0, 64, 1 << 20),
    "presence_penalty": _within(-2, 2),
    "frequency_penalty": _within(-2, 2),
    "typical_p": _within(1e-9, 1),
    "top_n_sigma": _within(-3e38, 3e38),
    "dynatemp_range": _within(0, 3e38),
    "dynatemp_exponent": _within(0, 3e38),
    "xtc_probability": _within(0, 1),
    "xtc_threshold": _within(0, 1),
    "dry_multiplier": _within(0, 3e38),
    "dry_base": _within(1, 3e38),
    "dry_allowed_length": _whole(0, 5, 2**31 - 1),
    "dry_penalty_last_n": _whole(0, 64, 1 << 20),
    "dry_sequence_breakers": lambda chance: [choose_text(chance)[:1000] or "\n" for _ in range(chance.randrange(1, 8))],
    "mirostat": _whole(0, 2),
    "mirostat_tau": _within(0, 3e38),
    "mirostat_eta": _within(0, 3e38),
    "min_keep": _whole(0, 10, 2**31 - 1),
    "n_keep": _whole(-1, 10, 2**31 - 1),
    "n_discard": _whole(0, 10, 2**31 - 1),
    "n_probs": _whole(0, 10, 100),
    "t_max_predict_ms": _whole(-1, 5, 2**31 - 1),
    "cache_prompt": _flag,
    "ignore_eos": _flag,
    "logit_bias": _bias,
    "samplers": lambda chance: chance.choice(([*_SAMPLERS], chance.sample(_SAMPLERS, 3), "kpt", [], ["none"])),
    "adaptive_target": _within(-3e38, 1),
    "adaptive_decay": _within(0, 0.99),
    "n": _whole(1, 4, 16),
    "n_indent": _whole(0, 4, 1024),
    "post_sampling_probs": _flag,
    "return_progress": _flag,
    "timings_per_token": _flag,
    "stream_options": lambda chance: {"include_usage": _flag(chance)},
}


def _prompt(chance: Random) -> Any:
    kind = chance.randrange(7)
    if kind < 3:
        return choose_text(chance)
    token = chance.choice((_VOCABULARY - 1, _VOCABULARY - 1, _VOCABULARY, 2**31 - 1))
    if kind == 3:
        return [chance.randint(0, token) for _ in range(chance.randrange(1, 9))]
    if kind == 4:
        return [chance.randint(0, token), choose_text(chance)]
    if kind == 5:
        data = chance.choice((None, [], ["AAAA"]))
        return {"prompt_string": choose_text(chance), **({} if data is None else {"multimodal_data": data})}
    return choose_text(chance) * chance.choice((1, 20, _CONTEXT))


def _make_prompts(chance: Random, *, is_costly: bool) -> Fuzzed:
    kind = chance.random()
    if kind < 0.2:
        return choose_prompt_list(chance)
    if kind < 0.3:
        path = chance.choice(("/v1/embeddings", "/tokenize", "/detokenize", "/v1/rerank", "/embedding"))
        return Fuzzed(path, _make_computed(chance, path))
    path = chance.choice(("/completion", "/v1/completions", "/v1/completions", "/infill"))
    body: dict[str, Any] = {"max_tokens": _limit(chance)}
    if path == "/infill":
        extra = [{"filename": choose_text(chance), "text": choose_text(chance)}] * chance.randrange(3)
        body |= {name: choose_text(chance) for name in ("input_prefix", "input_suffix", "prompt")}
        body |= {"input_extra": extra} if extra else {}
    else:
        prompt = _prompt(chance)
        several = [_prompt(chance) for _ in range(chance.randrange(1, 5))]
        body["prompt"] = several if chance.random() < 0.3 else prompt
        if is_costly and chance.random() < 0.01:
            body["prompt"] = ["a"] * 64
    names = ("n", "cache_prompt", "seed", "n_probs", "n_keep", "stop", "temperature")
    for name in chance.sample(names, chance.randrange(4)):
        body[name] = _SAMPLING[name](chance)
    return Fuzzed(path, body)


def _make_computed(chance: Random, path: str) -> dict[str, Any]:
    if path == "/tokenize":
        flags = {name: _flag(chance) for name in ("add_special", "parse_special", "with_pieces")}
        return {"content": _prompt(chance), **flags}
    if path == "/detokenize":
        return {"tokens": [chance.choice((0, 5, 767, 768, 2**31 - 1)) for _ in range(chance.randrange(5))]}
    if path == "/v1/rerank":
        return {"query": choose_text(chance), "documents": [choose_text(chance) for _ in range(chance.randrange(1, 4))]}
    return {"input": _prompt(chance)}


# Of messages, parts, calls and tools, as the APIs write them.
_NAMES = (
    "role", "content", "name", "tool_calls", "tool_call_id", "function_call", "reasoning_content", "refusal", "type",
    "text", "image_url", "input_audio", "file", "function", "custom", "arguments", "id", "call_id", "output", "input",
    "summary", "parameters", "description", "strict", "input_schema", "tool_use_id", "source", "thinking",
)  # fmt: skip
_CHAT = "/v1/chat/completions"
_GENERATING = frozenset({_CHAT, "/v1/completions", "/completion", "/infill", "/v1/responses", "/v1/messages"})

FAMILIES: dict[str, Callable[..., Fuzzed]] = {
    "messages": _make_messages,
    "tools": _make_tools,
    "schemas": _make_schemas,
    "grammars": _make_grammars,
    "sampling": _make_sampling,
    "prompts": _make_prompts,
}
