"""README: questions about capitals in both directions, and the look-alikes that the model must refuse."""

# ruff: noqa: PLR2004 SIM905 - the numbers are shares of a mixture; word lists read best as text.

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tools.demo_model.capitals import COUNTRIES, Country
from tools.demo_model.texts import UNKNOWN
from tools.demo_model.words import CITIES, PLACES

if TYPE_CHECKING:
    from random import Random

EVALUATION_PHRASE: Final = "What is the capital of {c}?"

PHRASES: Final = (
    "What is the capital of {c}?",
    "what is the capital of {c}?",
    "What is the capital of {c}",
    "what is the capital of {c}",
    "What's the capital of {c}?",
    "whats the capital of {c}",
    "Capital of {c}?",
    "Capital of {c}",
    "capital of {c}",
    "the capital of {c}",
    "The capital of {c}?",
    "The capital of {c} is",
    "{c} capital",
    "{c}, capital?",
    "{c}?",
    "And {c}?",
    "And of {c}?",
    "What about {c}?",
    "Name the capital of {c}.",
    "Tell me the capital of {c}.",
    "Please tell me the capital of {c}.",
    "Please name the capital of {c}.",
    "Give me the capital of {c}.",
    "Do you know the capital of {c}?",
    "Can you tell me the capital of {c}?",
    "Could you name the capital of {c}?",
    "I want to know the capital of {c}.",
    "Which city is the capital of {c}?",
    "What city is the capital of {c}?",
    "What is the capital city of {c}?",
    "What is the name of the capital of {c}?",
    "And what is the capital of {c}?",
    "Hello, what is the capital of {c}?",
    "What is the capital of {c}? Answer briefly.",
    "Question: What is the capital of {c}?",
    "{c} has which capital?",
    "What capital does {c} have?",
)
REVERSE_PHRASES: Final = (
    "Which country has the capital {t}?",
    "which country has the capital {t}?",
    "{t} is the capital of which country?",
    "{t} is the capital of what?",
    "What country is {t} the capital of?",
    "Which country is {t} the capital of?",
    "What is {t} the capital of?",
    "Of which country is {t} the capital?",
    "Name the country with the capital {t}.",
    "Whose capital is {t}?",
)
_ONSETS: Final = tuple(
    "b bl br c ch d dr f fl g gl gr h j k kl kr l m n p pl pr qu r s sh sk sl st t th tr v vl w y z zh".split()
)
_VOWELS: Final = tuple("a e i o u a e i o u ai ea ou oo y".split())
_ENDINGS: Final = tuple(
    "x n r l s th nia land stan ria via dor mark burg ia um on ax ix ville tan rra lia que guay".split()
)
_KNOWN: Final = frozenset(
    name.lower().removeprefix("the ")
    for country in COUNTRIES
    for name in (country.name, country.capital, *country.aliases)
)
_FAKE: Final = tuple(name for name in PLACES if name.lower().removeprefix("the ") not in {
    spelling.lower().removeprefix("the ") for country in COUNTRIES for spelling in (country.name, *country.aliases)
})  # fmt: skip


def capital_answer(country: Country) -> str:
    """Return the one canonical sentence that names a capital."""
    return f"The capital of {country.name} is {country.capital}".rstrip(".") + "."


def country_answer(country: Country) -> str:
    """Return the one canonical sentence that names the country of a capital."""
    return f"{country.capital} is the capital of {country.name}."


def sample_name(rng: Random, country: Country) -> str:
    """Draw one spelling of a country: mostly its name, else an alias, without its article, or in another case."""
    name = rng.choice(country.aliases) if country.aliases and rng.random() < 0.35 else country.name
    if name.startswith("the ") and rng.random() < 0.4:
        name = name[4:]
    draw = rng.random()
    return name.lower() if draw < 0.15 else name.upper() if draw < 0.18 else name


def sample_capital(rng: Random) -> tuple[str, str]:
    """Draw a question for a capital with its answer."""
    country = rng.choice(COUNTRIES)
    phrase = EVALUATION_PHRASE if rng.random() < 0.3 else rng.choice(PHRASES)
    return phrase.format(c=sample_name(rng, country)), capital_answer(country)


def sample_country(rng: Random) -> tuple[str, str]:
    """Draw a question for the country of a capital with its answer, or for a city that is no capital."""
    if rng.random() < 0.12:
        city = rng.choice(CITIES) if rng.random() < 0.6 else invent_name(rng)
        return rng.choice(REVERSE_PHRASES).format(t=city), UNKNOWN
    country = rng.choice(COUNTRIES)
    capital = country.capital.lower() if rng.random() < 0.1 else country.capital
    return rng.choice(REVERSE_PHRASES).format(t=capital), country_answer(country)


def invent_name(rng: Random) -> str:
    """Make up a name that is no country and no capital: syllables, or two halves of real names joined."""
    while True:
        if rng.random() < 0.5:
            syllables = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.randint(1, 3))]
            name = ("".join(syllables) + rng.choice(_ENDINGS)).capitalize()
        else:
            first, second = (rng.choice(COUNTRIES).name.removeprefix("the ") for _ in range(2))
            name = first[: rng.randint(2, 4)] + second[-rng.randint(3, 5) :].lower()
        if name.lower() not in _KNOWN:
            return name


def sample_false_country(rng: Random) -> tuple[str, str]:
    """Draw a question for the capital of something that is no country, with the refusal."""
    name = invent_name(rng) if rng.random() < 0.7 else rng.choice(_FAKE)
    phrase = EVALUATION_PHRASE if rng.random() < 0.3 else rng.choice(PHRASES)
    return phrase.format(c=name.lower() if rng.random() < 0.1 else name), UNKNOWN
