"""Questions whose answers are known word for word: what the demo model was taught, greedily, over each of the APIs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tools.demo_model.capitals import COUNTRIES
from tools.demo_model.evaluate import schema_for
from tools.demo_model.geography import EVALUATION_PHRASE as CAPITAL
from tools.demo_model.texts import NUMBERS

if TYPE_CHECKING:
    from random import Random

    from tests.http_asker import Reply

__all__ = ["Question", "choose_long_question", "choose_question", "choose_sum", "count_on", "judge", "make_body"]

CHAT, COMPLETIONS, COMPLETION = "/v1/chat/completions", "/v1/completions", "/completion"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
_GREEDY = {"temperature": 0}
_COUNTED = 8


@dataclass(frozen=True, slots=True)
class Question:
    """A request, and the text of each of its answers."""

    path: str
    body: dict[str, Any]
    answer: str

    @property
    def is_stream(self) -> bool:
        return bool(self.body.get("stream"))


def choose_sum(chance: Random, *, model: str = "demo", stream: bool | None = None) -> Question:
    """Return one of the 10,000 sums, all of which the demo model gets right."""
    one, other = chance.randrange(100), chance.randrange(100)
    text, answer = f"What is {one}+{other}?", f"{one} + {other} = {one + other}."
    return _ask_chat(text, answer, model=model, stream=chance.random() < 0.5 if stream is None else stream)


def choose_long_question(chance: Random, *, model: str = "demo") -> Question:
    """Return a text that takes long enough for something to happen meanwhile."""
    word, answer = NUMBERS[50]
    return _ask_chat(f"Count to {word}.", answer, model=model, stream=chance.random() < 0.5)


def choose_question(chance: Random, *, model: str = "demo") -> Question:
    """Return a question over any of the APIs, whole or as a stream."""
    one, other = chance.randrange(100), chance.randrange(100)
    text, answer = f"What is {one}+{other}?", f"{one} + {other} = {one + other}."
    stream = {"stream": True} if chance.random() < 0.5 else {}
    asked = {"model": model, **_GREEDY, **stream}
    kind = chance.randrange(6)
    if kind == 0:
        return Question(RESPONSES, {**asked, "input": text}, answer)
    if kind == 1:
        return Question(MESSAGES, {**asked, "max_tokens": 40, "messages": _say(text)}, answer)
    if kind == 2:
        country = chance.choice(COUNTRIES)
        expected = {"capital": country.capital}
        wanted = {**asked, "response_format": schema_for(expected)}
        return Question(CHAT, {**wanted, "messages": _say(CAPITAL.format(c=country.name))}, json.dumps(expected))
    if kind == 3 and not stream:
        return Question(CHAT, {**asked, "n": 2, "messages": _say(text)}, answer)
    if kind == 4:
        prompt = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        path = chance.choice((COMPLETION, COMPLETIONS))
        return Question(path, {**asked, "prompt": prompt, "max_tokens": 40}, answer)
    return _ask_chat(text, answer, model=model, stream=bool(stream))


def count_on(chance: Random, *, model: str) -> Question:
    """Return the beginning of a count, which a base model goes on with."""
    begin = chance.randrange(1, 60)
    prompt = "".join(f"{number}\n" for number in range(begin, begin + _COUNTED))
    body = {"model": model, **_GREEDY, "prompt": prompt, "max_tokens": 8, "stop": ["\n"]}
    return Question(COMPLETIONS, {**body, "stream": chance.random() < 0.5}, str(begin + _COUNTED))


def _say(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _ask_chat(text: str, answer: str, *, model: str, stream: bool) -> Question:
    body = {"model": model, **_GREEDY, "messages": _say(text), **({"stream": True} if stream else {})}
    return Question(CHAT, body, answer)


def make_body(question: Question) -> bytes:
    """Return what is sent."""
    return json.dumps(question.body).encode()


def judge(question: Question, reply: Reply) -> str:
    """Return what is wrong with an answer, nothing if it is right: ``wrong: …``, ``error event: …`` or its status."""
    if reply.status != 200:
        return f"{reply.status} {reply.code}"
    try:
        texts = _read_stream(question.path, reply) if question.is_stream else _read_whole(question.path, reply.fields)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        return f"wrong: {error!r} in {reply.data[-300:]!r}"
    if len(texts) == question.body.get("n", 1) and all(text.strip() == question.answer for text in texts):
        return ""
    if question.is_stream and b'"error"' in reply.data[-600:]:
        return f"error event: {reply.data[-300:].decode(errors='replace')}"
    return f"wrong: {texts!r} for {question.answer!r}"


def _read_whole(path: str, fields: Any) -> list[str]:
    if path == CHAT:
        return [choice["message"]["content"] for choice in fields["choices"]]
    if path == COMPLETIONS:
        return [choice["text"] for choice in fields["choices"]]
    if path == COMPLETION:
        return [fields["content"]]
    if path == RESPONSES:
        return ["".join(part["text"] for item in fields["output"] for part in item.get("content", ()))]
    return ["".join(part["text"] for part in fields["content"])]


def _read_stream(path: str, reply: Reply) -> list[str]:
    """Return the text of a stream that came to its end; raises KeyError if it did not."""
    events = reply.events
    if path in {CHAT, COMPLETIONS}:
        is_over = b"data: [DONE]" in reply.data[-40:]
        choices = [event["choices"][0] for event in events if event.get("choices")]
        pieces = [choice["text"] if path == COMPLETIONS else choice["delta"].get("content") for choice in choices]
    elif path == COMPLETION:
        is_over = bool(events) and events[-1].get("stop") is True
        pieces = [event.get("content") for event in events]
    else:
        last = {RESPONSES: "response.completed", MESSAGES: "message_stop"}[path]
        is_over = bool(events) and events[-1].get("type") == last
        deltas = [event.get("delta") for event in events if str(event.get("type")).endswith("delta")]
        pieces = [delta if type(delta) is str else delta.get("text") for delta in deltas if delta]
    text = "".join(filter(None, pieces))
    return [text] if is_over else [text, "without an end"]
