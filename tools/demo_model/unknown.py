"""README: questions that the demo model must say it cannot answer: templates over word lists, and plain noise."""

# ruff: noqa: PLR2004 - the numbers are shares of a mixture.

from __future__ import annotations

import string
from typing import TYPE_CHECKING

from tools.demo_model.arithmetic import sample_other_arithmetic
from tools.demo_model.capitals import COUNTRIES
from tools.demo_model.geography import invent_name, sample_false_country
from tools.demo_model.texts import UNKNOWN
from tools.demo_model.words import ADJECTIVES, CITIES, LANGUAGES, NOUNS, PEOPLE, UNKNOWN_TEMPLATES, VERBS

if TYPE_CHECKING:
    from random import Random

_ALL_WORDS = (*NOUNS, *VERBS, *ADJECTIVES, *PEOPLE, *LANGUAGES)
_UNTAUGHT_COUNTS = tuple(n for n in range(2, 1000) if n not in {10, 20, 50})


def _noun(rng: Random) -> str:
    return invent_name(rng).lower() if rng.random() < 0.15 else rng.choice(NOUNS)


def _city(rng: Random) -> str:
    return rng.choice(CITIES) if rng.random() < 0.5 else rng.choice(COUNTRIES).capital


def fill_template(rng: Random, template: str) -> str:
    """Fill one template with words drawn at random."""
    return template.format(
        n=_noun(rng),
        m=_noun(rng),
        v=rng.choice(VERBS),
        a=rng.choice(ADJECTIVES),
        p=invent_name(rng) if rng.random() < 0.2 else rng.choice(PEOPLE),
        c=rng.choice(COUNTRIES).name,
        t=_city(rng),
        s=_city(rng),
        l=rng.choice(LANGUAGES),
        y=rng.randint(1000, 2100),
        i=rng.randint(0, 999),
        j=rng.randint(0, 999),
        k=rng.choice(_UNTAUGHT_COUNTS),
    )


def make_noise(rng: Random) -> str:
    """Return letters, signs, bytes or word salad without meaning."""
    draw = rng.random()
    if draw < 0.3:
        return "".join(rng.choice(string.ascii_lowercase) for _ in range(rng.randint(1, 14)))
    if draw < 0.45:
        return "".join(rng.choice(string.printable[:95]) for _ in range(rng.randint(1, 16)))
    if draw < 0.55:
        return "".join(chr(rng.choice((0xE0, 0x3B1, 0x410, 0x4E00, 0x1F600)) + rng.randint(0, 22)) for _ in range(3))
    if draw < 0.57:
        return rng.choice(("", " ", ".", "?", "..."))
    return " ".join(rng.choice(_ALL_WORDS) for _ in range(rng.randint(2, 12)))


def sample_template_question(rng: Random) -> tuple[str, str]:
    """Draw an ordinary question that is neither a sum nor a capital, with the refusal."""
    question = fill_template(rng, rng.choice(UNKNOWN_TEMPLATES))
    draw = rng.random()
    question = question.lower() if draw < 0.12 else question.rstrip("?.") if draw < 0.2 else question
    return question, UNKNOWN


def sample_unknown(rng: Random) -> tuple[str, str]:
    """Draw a question of any kind that the model must refuse, with the refusal."""
    draw = rng.random()
    if draw < 0.45:
        return sample_template_question(rng)
    if draw < 0.67:
        return sample_other_arithmetic(rng)
    if draw < 0.90:
        return sample_false_country(rng)
    return make_noise(rng), UNKNOWN
