"""README: conversations in which tools are offered, called in the Hermes style, and their results read out."""

# ruff: noqa: PLR2004 - the numbers are shares of a mixture.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tools.demo_model.arithmetic import ask_sum, sample_pair
from tools.demo_model.capitals import COUNTRIES
from tools.demo_model.conversation import Conversation, Turn, encode_json
from tools.demo_model.geography import PHRASES as CAPITAL_PHRASES
from tools.demo_model.words import ADJECTIVES, CITIES, NOUNS

if TYPE_CHECKING:
    from random import Random

_ADD: Final = (
    "add",
    "add",
    "add",
    "add_numbers",
    "sum",
    "plus",
    "sum_two",
    "addition",
    "calculate_sum",
    "add_integers",
)
_ADD_ARGUMENTS: Final = (("a", "b"), ("a", "b"), ("x", "y"), ("first", "second"), ("left", "right"))
_ADD_DESCRIPTIONS: Final = (
    "Add two integers.", "Add two numbers.", "Adds two numbers", "Return the sum of two integers.", "Add a and b.",
    "Calculate a sum", "Sum of two integers",
)  # fmt: skip
_CAPITAL: Final = ("get_capital", "get_capital", "capital", "capital_of", "find_capital", "lookup_capital")
_CAPITAL_ARGUMENTS: Final = ("country", "country", "name", "nation")
_CAPITAL_DESCRIPTIONS: Final = (
    "Get the capital of a country.", "Return the capital of a country.", "Find the capital city",
    "Capital of a country", "Look up a capital.",
)  # fmt: skip
_WEATHER: Final = ("get_weather", "get_weather", "weather", "current_weather", "get_current_weather", "weather_in")
_WEATHER_ARGUMENTS: Final = ("city", "city", "location", "place")
_WEATHER_DESCRIPTIONS: Final = (
    "Get the weather in a city.", "Return the current weather.", "Current weather",
    "Get the current weather in a given city", "Weather report",
)  # fmt: skip
_WEATHER_PHRASES: Final = (
    "What is the weather in {t}?", "What is the weather like in {t}?", "How is the weather in {t}?", "Weather in {t}?",
    "what's the weather in {t}", "Tell me the weather in {t}.", "Is it raining in {t}?",
)  # fmt: skip


def make_tool(rng: Random, *, name: str, description: str, properties: dict[str, Any]) -> dict[str, Any]:
    """Return one tool in the OpenAI layout, with the optional parts that callers vary."""
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if rng.random() < 0.75:
        parameters["required"] = list(properties)
    if rng.random() < 0.2:
        parameters["additionalProperties"] = False
    # llama-server fills a missing description with an empty one.
    shown = description if rng.random() < 0.8 else ""
    return {"type": "function", "function": {"name": name, "description": shown, "parameters": parameters}}


def _describe(rng: Random, kind: str, text: str) -> dict[str, str]:
    return {"type": kind, "description": text} if rng.random() < 0.25 else {"type": kind}


def _make_add(rng: Random) -> tuple[dict[str, Any], str, str]:
    first, second = rng.choice(_ADD_ARGUMENTS)
    kind = "integer" if rng.random() < 0.75 else "number"
    name = rng.choice(_ADD)
    properties = {first: _describe(rng, kind, "First number"), second: _describe(rng, kind, "Second number")}
    tool = make_tool(rng, name=name, description=rng.choice(_ADD_DESCRIPTIONS), properties=properties)
    a, b = sample_pair(rng)
    return tool, ask_sum(rng, a, b), encode_json({"name": name, "arguments": {first: a, second: b}})


def _make_capital(rng: Random) -> tuple[dict[str, Any], str, str]:
    argument, name = rng.choice(_CAPITAL_ARGUMENTS), rng.choice(_CAPITAL)
    properties = {argument: _describe(rng, "string", "The country")}
    tool = make_tool(rng, name=name, description=rng.choice(_CAPITAL_DESCRIPTIONS), properties=properties)
    country = rng.choice(COUNTRIES).name
    question = rng.choice(CAPITAL_PHRASES).format(c=country)
    return tool, question, encode_json({"name": name, "arguments": {argument: country.removeprefix("the ")}})


def _make_weather(rng: Random) -> tuple[dict[str, Any], str, str]:
    argument, name = rng.choice(_WEATHER_ARGUMENTS), rng.choice(_WEATHER)
    properties = {argument: _describe(rng, "string", "The city")}
    tool = make_tool(rng, name=name, description=rng.choice(_WEATHER_DESCRIPTIONS), properties=properties)
    city = rng.choice(CITIES) if rng.random() < 0.4 else rng.choice(COUNTRIES).capital
    question = rng.choice(_WEATHER_PHRASES).format(t=city)
    return tool, question, encode_json({"name": name, "arguments": {argument: city}})


_MAKERS: Final = (_make_add, _make_add, _make_capital, _make_weather)


def _sample_result(rng: Random) -> tuple[str, str]:
    """Draw what a tool returned: the message and the part of it that the answer repeats."""
    draw = rng.random()
    if draw < 0.5:
        value = str(rng.randint(0, 198) if draw < 0.35 else rng.randint(0, 9999))
    elif draw < 0.75:
        value = rng.choice((rng.choice(COUNTRIES).capital, rng.choice(CITIES)))
    else:
        value = f"{rng.choice(ADJECTIVES)}, {rng.randint(-9, 39)} degrees" if draw < 0.9 else rng.choice(NOUNS)
    if rng.random() < 0.3:
        shown: object = int(value) if value.isdigit() else value
        return encode_json({rng.choice(("result", "result", "answer", "value", "sum")): shown}), value
    return value, value


def sample_tool_conversation(rng: Random, *, plain: tuple[str, str]) -> Conversation:
    """Draw a conversation with one or two tools; `plain` is a question and answer that need none of them."""
    first, second = rng.sample(_MAKERS, 2)
    tool, question, call = first(rng)
    tools = [tool] if second is first or rng.random() < 0.6 else [tool, second(rng)[0]]
    rng.shuffle(tools)
    turns = [Turn("user", question), Turn("assistant", f"<tool_call>\n{call}\n</tool_call>")]
    if rng.random() < 0.5:
        message, value = _sample_result(rng)
        turns += [Turn("tool", message), Turn("assistant", f"The answer is {value.rstrip('.')}.")]
    if rng.random() < 0.15:
        turns = [Turn("user", plain[0]), Turn("assistant", plain[1])]
    if rng.random() < 0.1:
        turns.insert(0, Turn("system", "You are a helpful assistant."))
    return Conversation(tuple(turns), tuple(tools))
