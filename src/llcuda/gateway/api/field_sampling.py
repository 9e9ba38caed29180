"""The fields that say how a text is generated, which most endpoints share, and their bounds."""

from __future__ import annotations

from typing import Any

from llcuda.errors import UsageError
from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.api.field_checks import (
    FLAG,
    MAX_INT,
    Field,
    invalid,
    list_of,
    mapping,
    number,
    text,
    texts,
    whole_number,
)
from llcuda.gateway.api.field_costs import check_grammar_cost
from llcuda.gateway.api.field_schemas import SCHEMA
from llcuda.options import OPTIONS, RequestOption

__all__ = ["MAX_TOKENS", "NAME", "PROBABILITIES", "SAMPLING", "STOP", "of_option"]

MAX_CHOICES = 16
"""Answers to one prompt. Each takes a slot, and llama-server refuses more than it has."""
MAX_PROBABILITIES = 100
"""Alternatives of each token. At 100 bytes for each, a token's event comes to 10 kB."""
MAX_STOPS = 32
"""Stop strings. The end of the text is held against each of them with every token."""
MAX_STOP_CHARACTERS = 1024
"""An answer is held back while it could still be the beginning of one."""
MAX_GRAMMAR_CHARACTERS = 64 << 10
"""llama-server parses a grammar before it answers anyone else."""
MAX_BIASES = 1024
"""Biases of tokens. They are gone through with every token."""
MAX_BIAS_CHARACTERS = 256
"""A bias of a text is one of each of its tokens."""
MAX_BIAS = 1e4
"""How large a bias may be: far above any logit, and far below what would make all of them infinite."""
MAX_SAMPLERS = 32
"""More than llama-server has."""
MAX_LOOK_BACK = 1 << 20
"""Tokens that a penalty looks back at, and llama-server sets memory aside for: told 2**31, it was killed for it."""
MAX_BREAKERS = 32
"""Strings that end a repetition; each is looked up in the whole vocabulary."""
MAX_NAME_CHARACTERS = 1024
"""Names and messages that a client chooses."""
MAX_INDENT = 1024
"""Spaces at the beginning of a line."""


def of_option(name: str, *, most: int = MAX_INT) -> Field:
    """Return the field of an option of the client, in the same range; a whole number is ``most`` at most."""
    option = OPTIONS[name]
    return number(option) if option.kind == "float" else whole_number(int(option.low or 0), int(option.high or most))


NAME = text(MAX_NAME_CHARACTERS)
MAX_TOKENS = of_option("max_tokens")
PROBABILITIES = of_option("n_probs", most=MAX_PROBABILITIES)
STOP = texts(MAX_STOPS, most_characters=MAX_STOP_CHARACTERS)
_GRAMMAR = text(MAX_GRAMMAR_CHARACTERS)
_CHOICES = whole_number(1, MAX_CHOICES)


def _takes_grammar(name: str, value: Any) -> bool:
    """Take a grammar that llama-server can follow; whether it is one is for llama-server to say."""
    _GRAMMAR.check(name, value)
    try:
        check_grammar_cost(value)
    except UsageError as error:
        raise RefusedError(400, f"{name}: {error.message}", code="invalid_value", param=name) from None
    return True


def _takes_biases(name: str, value: Any) -> bool:
    """Take biases as an object or as pairs: a number for a token or a text, or false to ban it."""
    if type(value) not in {dict, list} or len(value) > MAX_BIASES:
        return False
    for pair in value.items() if type(value) is dict else value:
        if type(pair) not in {tuple, list} or len(pair) != 2 or not _is_bias(*pair):  # noqa: PLR2004
            raise invalid(name, pair, "pairs of a token or a short text, and a number up to 10000 or false")
    return True


def _is_bias(token: Any, bias: Any) -> bool:
    known = type(token) is int or (type(token) is str and len(token) <= MAX_BIAS_CHARACTERS)
    return known and (bias is False or (type(bias) in {int, float} and abs(bias) <= MAX_BIAS))


_BIAS = {"anyOf": [{"type": "number", "minimum": -MAX_BIAS, "maximum": MAX_BIAS}, {"const": False}]}
_BIASED = {"type": "string", "maxLength": MAX_BIAS_CHARACTERS}
_BIAS_PAIR = {
    "type": "array",
    "prefixItems": [{"anyOf": [{"type": "integer"}, _BIASED]}, _BIAS],
    "minItems": 2,
    "maxItems": 2,
}
_BIASES = {
    "anyOf": [
        {"type": "object", "maxProperties": MAX_BIASES, "propertyNames": _BIASED, "additionalProperties": _BIAS},
        {"type": "array", "maxItems": MAX_BIASES, "items": _BIAS_PAIR},
    ]
}


SAMPLING: dict[str, Field] = {
    **{
        name: of_option(name)
        for name, option in OPTIONS.items()
        if option.kind in {"int", "float"} and not option.chat_only and name != "id_slot"
    },
    "n_probs": PROBABILITIES,
    "adaptive_target": number(RequestOption("float", high=1)),
    "adaptive_decay": number(RequestOption("float", low=0, high=0.99)),
    "cache_prompt": FLAG,
    "dry_penalty_last_n": of_option("dry_penalty_last_n", most=MAX_LOOK_BACK),
    "dry_sequence_breakers": list_of(MAX_BREAKERS, NAME),
    "grammar": Field(_takes_grammar, _GRAMMAR.wanted, _GRAMMAR.schema),
    "ignore_eos": FLAG,
    "json_schema": SCHEMA,
    "logit_bias": Field(_takes_biases, f"an object or a list of at most {MAX_BIASES} pairs", _BIASES),
    "n": _CHOICES,
    "n_cmpl": _CHOICES,
    "n_discard": whole_number(0),
    "n_indent": whole_number(0, MAX_INDENT),
    "n_predict": MAX_TOKENS,
    "post_sampling_probs": FLAG,
    "repeat_last_n": of_option("repeat_last_n", most=MAX_LOOK_BACK),
    "return_progress": FLAG,
    "seed": whole_number(-(2**63), 2**63 - 1),  # as OpenAI's API takes it; it comes to 32 bits
    "samplers": texts(MAX_SAMPLERS, most_characters=MAX_SAMPLERS),
    "stop": STOP,
    "stream": FLAG,
    "stream_options": mapping(4),
    "timings_per_token": FLAG,
}
