"""A trace of conversations, and clients that hold them: what a cache of prompts is good for.

The shape is that of people who talk: conversations begin at random moments, most have a few turns and some have many,
between two turns somebody reads and writes, and messages are short more often than long. The times are compressed, some
twenty times; no system prompt is shared. Each turn sends all turns before it, with the answers that there really were.
"""

from __future__ import annotations

import json
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

from tests.watching import watched

if TYPE_CHECKING:
    from pathlib import Path

_TIMEOUT = 120.0
_SLACK = 4
_WORDS = (
    "the", "old", "bridge", "river", "town", "light", "of", "a", "small", "house", "with", "green", "garden", "where",
    "people", "walk", "in", "summer", "and", "talk", "about", "work", "music", "weather",
)  # fmt: skip
# A character is about a token for the demo model, and a conversation has to fit into 1,024 of them.
_MAX_TURNS = 8
_MAX_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class Turn:
    """What somebody says, and when: seconds after the answer before."""

    think_seconds: float
    text: str
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns, the first of which comes ``begins`` seconds after the trace."""

    begins: float
    turns: tuple[Turn, ...]


@dataclass
class Replay:
    """What the cache was good for, in the turns after the first of their conversation."""

    later_turns: int = 0
    hits: int = 0
    """Those whose whole prompt before, and the answer to it, were in the cache of the worker that got them."""
    reusable_tokens: int = 0
    """Of those prompts and answers."""
    reused_tokens: int = 0
    """Of those, what came from the cache: a worker that has had an earlier turn has a part."""
    failures: list[str] = field(default_factory=list)
    waits_ms: list[float] = field(default_factory=list)
    """Until the answer, of the later turns."""


def build_trace(seed: int, *, conversations: int, seconds: float) -> list[Conversation]:
    """Return conversations that begin within so many seconds."""
    chance = random.Random(seed)
    begins = sorted(chance.uniform(0, seconds) for _ in range(conversations))
    return [Conversation(at, tuple(_build_turns(chance))) for at in begins]


def _build_turns(chance: random.Random) -> list[Turn]:
    # At least two, four on average where there were no end to them.
    count = 2
    while count < _MAX_TURNS and chance.random() < 2 / 3:
        count += 1
    return [
        Turn(min(3.0, chance.lognormvariate(-0.7, 0.8)), _build_text(chance), chance.randint(8, 32))
        for _ in range(count)
    ]


def _build_text(chance: random.Random) -> str:
    length = min(_MAX_CHARACTERS, int(chance.lognormvariate(3.2, 0.6)))
    words = [str(chance.randrange(1000))]
    while len(" ".join(words)) < length:
        words.append(chance.choice(_WORDS))
    return " ".join(words)


def replay(port: int, trace: list[Conversation], *, at_once: int = 0) -> Replay:
    """Hold the conversations, and return what the cache was good for.

    Each is held at its time, or, if ``at_once`` says how many people there are, as soon as one of them has the time.
    """
    result, lock, began = Replay(), threading.Lock(), time.monotonic()

    def hold(conversation: Conversation) -> None:
        if not at_once:
            time.sleep(max(0.0, began + conversation.begins - time.monotonic()))
        _hold(port, conversation, result=result, lock=lock, thinks=not at_once)

    with ThreadPoolExecutor(at_once or len(trace)) as people:
        list(people.map(hold, trace))
    return result


def _hold(port: int, conversation: Conversation, *, result: Replay, lock: threading.Lock, thinks: bool) -> None:
    connection = HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT)
    messages: list[dict[str, str]] = []
    earlier = 0
    for turn in conversation.turns:
        if messages and thinks:
            time.sleep(turn.think_seconds)
        messages.append({"role": "user", "content": turn.text})
        sent = time.monotonic()
        status, answer = _ask(connection, messages, max_tokens=turn.max_tokens)
        waited_ms = (time.monotonic() - sent) * 1000
        with lock:
            if status != 200:
                result.failures.append(f"{status}: {answer}")
                break
            if earlier:
                _note(result, answer["usage"], earlier=earlier, waited_ms=waited_ms)
        usage = answer["usage"]
        # The last token of an answer was never read by the model.
        earlier = usage["prompt_tokens"] + usage["completion_tokens"] - 1
        messages.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"]})
    connection.close()


def _ask(connection: HTTPConnection, messages: list[dict[str, str]], *, max_tokens: int) -> tuple[int, Any]:
    body = {"model": "demo", "messages": messages, "max_tokens": max_tokens, "temperature": 0}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def _note(result: Replay, usage: Any, *, earlier: int, waited_ms: float) -> None:
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    result.later_turns += 1
    result.waits_ms.append(waited_ms)
    result.reusable_tokens += earlier
    result.reused_tokens += min(cached, earlier)
    result.hits += cached >= earlier - _SLACK


_WORKERS = 6


def hold(folder: Path, choice: str) -> Replay:
    folder.mkdir()
    model = {"workers": _WORKERS, "slots": 2, "threads": 1, "ctx_size": 1024}
    with watched(folder, model=model, choice=choice) as gateway:
        # So few that no worker is ever full: a conversation always finds a place at its own.
        return replay(gateway.port, build_trace(7, conversations=30, seconds=0.0), at_once=3)


def test_a_conversation_finds_its_cache_where_lots_do_not(tmp_path: Path) -> None:
    own, drawn = hold(tmp_path / "own", "own"), hold(tmp_path / "random", "random")
    assert own.failures == drawn.failures == []
    assert own.later_turns == drawn.later_turns > 50
    # Five of six draws miss.
    assert own.hits > 0.6 * own.later_turns
    assert own.hits > 2.5 * drawn.hits
    assert own.reused_tokens > 1.5 * drawn.reused_tokens
