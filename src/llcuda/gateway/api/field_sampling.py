"""The fields that say how a text is generated, which most endpoints share, and their bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llcuda.errors import UsageError
from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.api.field_checks import flag, invalid, list_of, mapping, number, text, texts, whole_number
from llcuda.gateway.api.field_costs import check_grammar_cost
from llcuda.gateway.api.field_schemas import schema
from llcuda.options import OPTIONS, Option

if TYPE_CHECKING:
    from llcuda.gateway.api.field_checks import Check

__all__ = ["SAMPLING", "max_tokens_check", "name_check", "of_options", "probabilities_check", "stop_check"]

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

name_check = text(MAX_NAME_CHARACTERS)
_choices = whole_number(Option("int", low=1, high=MAX_CHOICES))
probabilities_check = whole_number(OPTIONS["n_probs"], high=MAX_PROBABILITIES)
max_tokens_check = whole_number(OPTIONS["max_tokens"])
_grammar_text = text(MAX_GRAMMAR_CHARACTERS)
stop_check = texts(MAX_STOPS, most_characters=MAX_STOP_CHARACTERS)


def _grammar(name: str, value: Any) -> None:
    """Take a grammar that llama-server can follow; whether it is one is for llama-server to say."""
    _grammar_text(name, value)
    try:
        check_grammar_cost(value)
    except UsageError as error:
        raise RefusedError(400, f"{name}: {error.message}", code="invalid_value", param=name) from None


def _bias(name: str, value: Any) -> None:
    """Take biases as an object or as pairs: a number for a token or a text, or false to ban it."""
    pairs = value.items() if type(value) is dict else value
    if type(value) not in {dict, list} or len(value) > MAX_BIASES:
        raise invalid(name, value, f"an object or a list of at most {MAX_BIASES} pairs")
    for pair in pairs:
        if type(pair) not in {tuple, list} or len(pair) != 2 or not _is_bias(*pair):  # noqa: PLR2004
            raise invalid(name, pair, "pairs of a token or a short text, and a number up to 10000 or false")


def _is_bias(token: Any, bias: Any) -> bool:
    known = type(token) is int or (type(token) is str and len(token) <= MAX_BIAS_CHARACTERS)
    return known and (bias is False or (type(bias) in {int, float} and abs(bias) <= MAX_BIAS))


def of_options(*names: str) -> dict[str, Check]:
    """Return the checks of fields that are options of the client too, in the same ranges."""
    kinds = {"int": whole_number, "float": number}
    return {
        OPTIONS[name].field or name: kinds[OPTIONS[name].kind](OPTIONS[name])
        for name in names or OPTIONS
        if OPTIONS[name].kind in kinds and not OPTIONS[name].chat_only
    }


SAMPLING: dict[str, Check] = {
    **{name: check for name, check in of_options().items() if name not in {"id_slot", "max_tokens"}},
    "n_probs": probabilities_check,
    "adaptive_target": number(Option("float", high=1)),
    "adaptive_decay": number(Option("float", low=0, high=0.99)),
    "cache_prompt": flag,
    "dry_penalty_last_n": whole_number(OPTIONS["dry_penalty_last_n"], high=MAX_LOOK_BACK),
    "dry_sequence_breakers": list_of(MAX_BREAKERS, name_check),
    "grammar": _grammar,
    "ignore_eos": flag,
    "json_schema": schema,
    "logit_bias": _bias,
    "max_tokens": max_tokens_check,
    "n": _choices,
    "n_cmpl": _choices,
    "n_discard": whole_number(Option("int", low=0)),
    "n_indent": whole_number(Option("int", low=0, high=MAX_INDENT)),
    "n_predict": max_tokens_check,
    "post_sampling_probs": flag,
    "repeat_last_n": whole_number(OPTIONS["repeat_last_n"], high=MAX_LOOK_BACK),
    "return_progress": flag,
    "samplers": texts(MAX_SAMPLERS, most_characters=MAX_SAMPLERS),
    "stop": stop_check,
    "stream": flag,
    "stream_options": mapping(4),
    "timings_per_token": flag,
}
