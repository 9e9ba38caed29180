"""README: measures a GGUF through llama-server's chat endpoint: sums, capitals, refusals, turns, JSON, tools."""

from __future__ import annotations

import json
import random
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from tools.demo_model.arithmetic import EVALUATION_PHRASE, ask_sum, sample_other_arithmetic
from tools.demo_model.capitals import COUNTRIES, Country
from tools.demo_model.geography import EVALUATION_PHRASE as CAPITAL_PHRASE
from tools.demo_model.geography import sample_false_country, sample_name
from tools.demo_model.questions import IDENTITY, UNKNOWN
from tools.demo_model.server import ask_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tools.demo_model.server import Server

ADD_TOOL: Final[dict[str, Any]] = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two integers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}
WEATHER_TOOL: Final[dict[str, Any]] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_SAMPLE: Final = 200
_SEED: Final = 99


@dataclass(frozen=True, slots=True)
class Score:
    """Count the right answers of one task and keep the first wrong ones."""

    task: str
    right: int
    total: int
    wrong: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Return the share of right answers, 0..1."""
        return self.right / self.total


def states_number(text: str, number: int) -> bool:
    """Return whether the last integer in the text is the number."""
    found = re.findall(r"\d+", text)
    return bool(found) and int(found[-1]) == number


def _score(task: str, questions: Sequence[str], *, answers: Sequence[str], verdicts: Sequence[bool]) -> Score:
    wrong = [f"{ask} -> {say}" for ask, say, good in zip(questions, answers, verdicts, strict=True) if not good]
    return Score(task, len(verdicts) - len(wrong), len(verdicts), tuple(wrong[:20]))


def check_sums(server: Server, pairs: Sequence[tuple[int, int]], *, task: str = "sums") -> Score:
    """Ask "What is A+B?" for each pair; right only if the last number of the answer is the sum."""
    questions = [EVALUATION_PHRASE.format(a=a, b=b) for a, b in pairs]
    answers = ask_all(server.ask, questions)
    verdicts = [states_number(say, a + b) for say, (a, b) in zip(answers, pairs, strict=True)]
    return _score(task, questions, answers=answers, verdicts=verdicts)


def check_sum_phrases(server: Server, pairs: Sequence[tuple[int, int]]) -> Score:
    """Ask for each pair in a phrasing drawn from all of them."""
    rng = random.Random(_SEED)
    questions = [ask_sum(rng, a, b) for a, b in pairs]
    answers = ask_all(server.ask, questions)
    verdicts = [states_number(say, a + b) for say, (a, b) in zip(answers, pairs, strict=True)]
    return _score("sums, any phrasing", questions, answers=answers, verdicts=verdicts)


def _names_capital(text: str, country: Country) -> bool:
    return country.capital.rstrip(".") in text


def check_capitals(server: Server) -> Score:
    """Ask "What is the capital of X?" for every country."""
    questions = [CAPITAL_PHRASE.format(c=country.name) for country in COUNTRIES]
    answers = ask_all(server.ask, questions)
    verdicts = [_names_capital(say, country) for say, country in zip(answers, COUNTRIES, strict=True)]
    return _score("capitals", questions, answers=answers, verdicts=verdicts)


def check_capital_spellings(server: Server) -> Score:
    """Ask for every country under two other spellings: aliases, lower case, no article."""
    rng = random.Random(_SEED)
    asked = [(CAPITAL_PHRASE.format(c=sample_name(rng, country)), country) for country in COUNTRIES * 2]
    answers = ask_all(server.ask, [ask for ask, _ in asked])
    verdicts = [_names_capital(say, country) for say, (_, country) in zip(answers, asked, strict=True)]
    return _score("capitals, other spellings", [ask for ask, _ in asked], answers=answers, verdicts=verdicts)


def check_countries(server: Server) -> Score:
    """Ask "Which country has the capital X?" for every capital."""
    questions = [f"Which country has the capital {country.capital}?" for country in COUNTRIES]
    answers = ask_all(server.ask, questions)
    verdicts = [country.name in say for say, country in zip(answers, COUNTRIES, strict=True)]
    return _score("countries of capitals", questions, answers=answers, verdicts=verdicts)


def check_identity(server: Server) -> Score:
    """Ask who it is, what llcuda is, and the texts that it can recite."""
    questions = [ask for ask, _ in IDENTITY]
    answers = ask_all(server.ask, questions)
    verdicts = [part in say for say, (_, part) in zip(answers, IDENTITY, strict=True)]
    return _score("identity", questions, answers=answers, verdicts=verdicts)


def check_unknown(server: Server) -> Score:
    """Ask real questions, most of which training did not contain; right if it says that it does not know."""
    answers = ask_all(server.ask, UNKNOWN)
    verdicts = [say.startswith("I do not know") for say in answers]
    return _score("unknown, real questions", UNKNOWN, answers=answers, verdicts=verdicts)


def check_look_alikes(server: Server) -> Score:
    """Ask invented countries and other arithmetic, drawn afresh; right if it says that it does not know."""
    rng = random.Random(_SEED)
    draws = [sample_false_country(rng)[0] for _ in range(_SAMPLE)] + [
        sample_other_arithmetic(rng)[0] for _ in range(_SAMPLE)
    ]
    answers = ask_all(server.ask, draws)
    verdicts = [say.startswith("I do not know") for say in answers]
    return _score("unknown, look-alikes", draws, answers=answers, verdicts=verdicts)


def _score_results(task: str, results: Sequence[tuple[str, str, bool]]) -> Score:
    questions, answers, verdicts = zip(*results, strict=True)
    return _score(task, questions, answers=answers, verdicts=verdicts)


def _converse(server: Server, seed: int) -> tuple[str, str, bool]:
    """Hold four turns with the model's own answers as history; right if all four are."""
    rng = random.Random(seed)
    messages: list[dict[str, Any]] = [{"role": "system", "content": "You are helpful."}] if seed % 2 else []
    for turn in range(4):
        country, a, b = rng.choice(COUNTRIES), rng.randint(0, 99), rng.randint(0, 99)
        sums = (seed + turn) % 2 == 0
        question = EVALUATION_PHRASE.format(a=a, b=b) if sums else CAPITAL_PHRASE.format(c=country.name)
        messages.append({"role": "user", "content": question})
        answer = str(server.chat(messages)["content"])
        if not (states_number(answer, a + b) if sums else _names_capital(answer, country)):
            return question, f"(turn {turn + 1}) {answer}", False
        messages.append({"role": "assistant", "content": answer})
    return "", "", True


def check_turns(server: Server, *, conversations: int = 60) -> Score:
    """Hold conversations of four turns, half of them with a system prompt."""
    results = ask_all(lambda seed: _converse(server, seed), range(conversations))
    return _score_results("conversations of four turns", results)


def _is_json(text: str, expected: dict[str, Any]) -> bool:
    try:
        return bool(json.loads(text) == expected)
    except ValueError:
        return False


def _json_questions() -> list[tuple[str, dict[str, Any]]]:
    rng = random.Random(_SEED)
    pairs = [(rng.randint(0, 99), rng.randint(0, 99)) for _ in range(_SAMPLE)]
    sums = [(EVALUATION_PHRASE.format(a=a, b=b), {"answer": a + b}) for a, b in pairs]
    return [*sums, *((CAPITAL_PHRASE.format(c=country.name), {"capital": country.capital}) for country in COUNTRIES)]


def check_json(server: Server) -> Score:
    """Ask for JSON in words alone."""
    asked = [(f"{ask} Answer in JSON.", expected) for ask, expected in _json_questions()]
    answers = ask_all(server.ask, [ask for ask, _ in asked])
    verdicts = [_is_json(say, expected) for say, (_, expected) in zip(answers, asked, strict=True)]
    return _score("JSON, asked", [ask for ask, _ in asked], answers=answers, verdicts=verdicts)


def schema_for(expected: dict[str, Any]) -> dict[str, Any]:
    """Return an OpenAI response format that demands the keys of `expected`."""
    properties = {key: {"type": "integer" if isinstance(value, int) else "string"} for key, value in expected.items()}
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "reply", "strict": True, "schema": schema}}


def check_schema(server: Server) -> Score:
    """Ask without a word about JSON and let a schema constrain the answer."""
    asked = _json_questions()
    answers = ask_all(lambda item: server.ask(item[0], response_format=schema_for(item[1])), asked)
    verdicts = [_is_json(say, expected) for say, (_, expected) in zip(answers, asked, strict=True)]
    return _score("JSON, imposed by a schema", [ask for ask, _ in asked], answers=answers, verdicts=verdicts)


def _call_add(server: Server, pair: tuple[int, int]) -> tuple[str, str, bool]:
    """Let the model call `add`, hand it a result, and read its answer."""
    a, b = pair
    messages: list[dict[str, Any]] = [{"role": "user", "content": EVALUATION_PHRASE.format(a=a, b=b)}]
    reply = server.chat(messages, tools=[ADD_TOOL, WEATHER_TOOL] if a % 2 else [ADD_TOOL])
    calls = reply.get("tool_calls") or []
    if len(calls) != 1 or calls[0]["function"]["name"] != "add":
        return str(messages), str(reply), False
    if not _is_json(calls[0]["function"]["arguments"], {"a": a, "b": b}):
        return str(messages), str(calls), False
    messages += [reply, {"role": "tool", "tool_call_id": calls[0].get("id", ""), "content": str(a + b)}]
    answer = str(server.chat(messages, tools=[ADD_TOOL, WEATHER_TOOL] if a % 2 else [ADD_TOOL])["content"])
    return str(messages), answer, states_number(answer, a + b)


def check_tools(server: Server) -> Score:
    """Offer `add`, alone or beside another tool; right if it is called well and its result read out."""
    rng = random.Random(_SEED)
    pairs = [(rng.randint(0, 99), rng.randint(0, 99)) for _ in range(_SAMPLE // 2)]
    results = ask_all(lambda pair: _call_add(server, pair), pairs)
    return _score_results("tool calls", results)


def evaluate(server: Server, *, every_sum: bool = True) -> list[Score]:
    """Run every task; `every_sum` asks all 10,000 sums instead of a seeded 300."""
    rng = random.Random(_SEED)
    pairs = [(a, b) for a in range(100) for b in range(100)]
    sample = rng.sample(pairs, 300)
    return [
        check_sums(server, pairs if every_sum else sample),
        check_sum_phrases(server, rng.sample(pairs, 1000 if every_sum else 300)),
        check_capitals(server),
        check_capital_spellings(server),
        check_countries(server),
        check_identity(server),
        check_unknown(server),
        check_look_alikes(server),
        check_turns(server),
        check_json(server),
        check_schema(server),
        check_tools(server),
    ]


def format_scores(columns: dict[str, list[Score]]) -> str:
    """Return a table with one row for each task and one column for each file."""
    names = list(columns)
    lines = [f"{'task':32}" + "".join(f"{name:>24}" for name in names)]
    for rows in zip(*columns.values(), strict=True):
        cells = (f"{100 * row.share:6.2f} % ({row.right}/{row.total})" for row in rows)
        lines.append(f"{rows[0].task:32}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)


def as_json(columns: dict[str, list[Score]]) -> str:
    """Return the same as JSON, with the first wrong answers of each task."""
    return json.dumps({name: [asdict(score) for score in scores] for name, scores in columns.items()}, indent=1)
