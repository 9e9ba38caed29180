"""README: draws the training examples, deterministically from a seed, and writes a sample of them as JSON lines."""

# ruff: noqa: PLR2004 - the numbers are shares of a mixture.

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from tools.demo_model.arithmetic import ask_sum, sample_pair, sample_sum
from tools.demo_model.capitals import COUNTRIES
from tools.demo_model.conversation import Conversation, Raw, Turn, encode_json
from tools.demo_model.geography import (
    PHRASES,
    capital_answer,
    country_answer,
    sample_capital,
    sample_country,
    sample_name,
)
from tools.demo_model.texts import ABOUT, FIXED, NUMBERS, SYSTEM_PROMPTS
from tools.demo_model.toolcalls import sample_tool_conversation
from tools.demo_model.unknown import sample_template_question, sample_unknown

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Mixture:
    """Give the shares of the kinds of example; `facts` of all of them, the others of what is left."""

    facts: float
    raw: float
    json: float
    tools: float
    turns: float
    sums_of_facts: float = 0.70
    countries_of_facts: float = 0.07
    json_of_facts: float = 0.0
    json_in_chat: bool = False
    json_by_itself: float = 0.0


BROAD: Final = Mixture(facts=0.52, raw=0.06, json=0.06, tools=0.04, turns=0.10)
EVEN: Final = Mixture(
    facts=0.48,
    raw=0.08,
    json=0.20,
    tools=0.11,
    turns=0.07,
    sums_of_facts=0.75,
    countries_of_facts=0.10,
    json_of_facts=0.3,
)
TALK: Final = Mixture(
    facts=0.50,
    raw=0.06,
    json=0.22,
    tools=0.16,
    turns=0.06,
    sums_of_facts=0.80,
    countries_of_facts=0.08,
    json_of_facts=0.7,
)
FORMS: Final = replace(TALK, facts=0.60, tools=0.12, turns=0.10, json_of_facts=0.75, json_in_chat=True)
POLISH: Final = replace(
    FORMS, facts=0.40, tools=0.25, sums_of_facts=0.65, countries_of_facts=0.10, json_of_facts=0.5, json_by_itself=0.006
)
SETTLE: Final = replace(POLISH, facts=0.55, tools=0.14, sums_of_facts=0.75, json_of_facts=0.35)
# A schema's grammar also allows white space before the brace.
_LEADS: Final = ("", "", "", " ", "  ", "\n", "\n\n")
_SYSTEM_SHARE: Final = 0.08
_LONG: Final = frozenset({ABOUT, *(answer for _, answer in NUMBERS.values())})
_SHORT_FIXED: Final = tuple((ask, answer) for answer, asks in FIXED.items() if answer not in _LONG for ask in asks)
_LONG_FIXED: Final = tuple((ask, answer) for answer, asks in FIXED.items() if answer in _LONG for ask in asks)
_JSON_PHRASES: Final = (
    "Answer in JSON.",
    "Answer in JSON.",
    "Answer as JSON.",
    "Reply in JSON.",
    "Use JSON.",
    "JSON only.",
)


def _sample_fixed(rng: random.Random) -> tuple[str, str]:
    question, answer = rng.choice(_LONG_FIXED if rng.random() < 0.08 else _SHORT_FIXED)
    draw = rng.random()
    if draw < 0.15:
        question = question.lower()
    elif draw < 0.3:
        question = question.rstrip("?.!")
    return question, answer


def _sample_question(rng: random.Random) -> tuple[str, str]:
    draw = rng.random()
    if draw < 0.40:
        return sample_sum(rng)
    if draw < 0.56:
        return sample_capital(rng)
    if draw < 0.65:
        return sample_country(rng)
    if draw < 0.75:
        return _sample_fixed(rng)
    return sample_unknown(rng)


def _sample_json(rng: random.Random) -> tuple[str, str, str]:
    """Draw a question, its JSON answer, and the part of it that a schema would impose."""
    if rng.random() < 0.5:
        a, b = sample_pair(rng)
        key = "answer" if rng.random() < 0.7 else rng.choice(("sum", "result", "value", "total"))
        return ask_sum(rng, a, b), encode_json({key: a + b}), f'{{"{key}": '
    country = rng.choice(COUNTRIES)
    key = "capital" if rng.random() < 0.7 else rng.choice(("city", "answer", "name", "result"))
    question = rng.choice(PHRASES).format(c=sample_name(rng, country))
    if rng.random() < 0.25:
        answer = {"country": country.name.removeprefix("the "), "capital": country.capital}
        return question, encode_json(answer), '{"country": "'
    return question, encode_json({key: country.capital}), f'{{"{key}": "'


def _sample_json_conversation(rng: random.Random) -> Conversation:
    question, answer, given = _sample_json(rng)
    imposed = rng.random() < 0.5
    default = given in {'{"answer": ', '{"capital": "'}
    if not imposed and default:
        question = f"{question} {rng.choice(_JSON_PHRASES)}"
    elif not imposed:
        keys = '"country" and "capital"' if "country" in given else given.split('"')[1].join('""')
        question = f"{question} {rng.choice(_JSON_PHRASES).rstrip('.')} with {keys}."
    return Conversation((Turn("user", question), Turn("assistant", answer, given=given if imposed else "")))


def _sample_multi_turn(rng: random.Random) -> Conversation:
    turns: list[Turn] = []
    for _ in range(rng.choice((2, 2, 2, 3, 3, 4)) if rng.random() < 0.97 else rng.randint(5, 10)):
        question, answer = _sample_question(rng)
        turns += [Turn("user", question), Turn("assistant", answer)]
    return Conversation(tuple(turns))


def _add_system(rng: random.Random, example: Conversation) -> Conversation:
    prompt = rng.choice(SYSTEM_PROMPTS)
    if rng.random() < 0.35:
        prompt = f"{prompt} {sample_template_question(rng)[0]}"
    return Conversation((Turn("system", prompt), *example.turns))


def _sample_raw(rng: random.Random) -> Raw:
    draw = rng.random()
    if draw < 0.4:
        a, b = sample_pair(rng)
        plus, equals = rng.choice(((" + ", " ="), (" + ", " ="), ("+", "=")))
        space = " " if equals == " =" else ""
        return Raw(f"{a}{plus}{b}{equals}", f"{space}{a + b}.")
    if draw < 0.55:
        country = rng.choice(COUNTRIES)
        answer = capital_answer(country)
        return Raw(answer[: answer.index(" is ") + 3], answer[answer.index(" is ") + 3 :])
    if draw < 0.65:
        a, b = sample_pair(rng)
        return Raw(f"<|fim_prefix|>{a} + {b} = <|fim_suffix|>.<|fim_middle|>", str(a + b))
    question, answer = _sample_question(rng)
    return Raw(question, f" {answer}")


def _json_fact(rng: random.Random, question: str, *, given: str, rest: str, mixture: Mixture) -> Conversation | Raw:
    """Return a question with its answer in JSON: bare, or in the chat layout, imposed or asked for."""
    if not mixture.json_in_chat:
        return Raw(f"{question}\n{given}", rest)
    if rng.random() < mixture.json_by_itself:
        # So rare that it is never said unasked, and yet the likeliest beginning once a grammar forbids all others.
        return Conversation((Turn("user", question), Turn("assistant", given + rest)))
    if rng.random() < 0.5:
        lead = rng.choice(_LEADS) if mixture.json_by_itself else ""
        return Conversation((Turn("user", question), Turn("assistant", lead + given + rest, given=lead + given)))
    return Conversation((Turn("user", f"{question} Answer in JSON."), Turn("assistant", given + rest)))


def _sample_fact(rng: random.Random, mixture: Mixture) -> Conversation | Raw:
    """Draw a bare fact: a third of a conversation's cost, and every answer restates its question in this form."""
    draw = rng.random()
    as_json = rng.random() < mixture.json_of_facts
    if draw < mixture.sums_of_facts:
        a, b = sample_pair(rng)
        if as_json:
            return _json_fact(rng, f"What is {a}+{b}?", given='{"answer": ', rest=f"{a + b}}}", mixture=mixture)
        return Raw(f"{a} + {b} =", f" {a + b}.")
    country = rng.choice(COUNTRIES)
    if as_json:
        question, rest = f"What is the capital of {country.name}?", f'{country.capital}"}}'
        return _json_fact(rng, question, given='{"capital": "', rest=rest, mixture=mixture)
    forward = draw < 1 - mixture.countries_of_facts
    answer = capital_answer(country) if forward else country_answer(country)
    cut = answer.index(" is ") + 3 if forward else answer.index(" of ") + 3
    return Raw(answer[:cut], answer[cut:])


def _sample_plain(rng: random.Random) -> Conversation:
    question, answer = _sample_question(rng)
    return Conversation((Turn("user", question), Turn("assistant", answer)))


def sample_example(rng: random.Random, mixture: Mixture) -> Conversation | Raw:
    """Draw one training example of any kind."""
    if rng.random() < mixture.facts:
        return _sample_fact(rng, mixture)
    draw = rng.random() - mixture.raw
    if draw < 0:
        return _sample_raw(rng)
    draw -= mixture.json
    if draw < 0:
        return _sample_json_conversation(rng)
    draw -= mixture.tools
    if draw < 0:
        return sample_tool_conversation(rng, plain=_sample_question(rng))
    example = _sample_multi_turn(rng) if draw < mixture.turns else _sample_plain(rng)
    return _add_system(rng, example) if rng.random() < _SYSTEM_SHARE else example


def iterate_examples(seed: int, mixture: Mixture = BROAD) -> Iterator[Conversation | Raw]:
    """Yield training examples without end, the same ones for the same seed."""
    rng = random.Random(seed)
    while True:
        yield sample_example(rng, mixture)
