"""Clients that ask a gateway all the time, streams and whole answers, and take down what becomes of each request."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Answer", "Clients", "Wish", "asking", "real_wishes", "stub_wishes"]

_TIMEOUT = 120.0


@dataclass(frozen=True, slots=True)
class Wish:
    """A request, and how its complete answer is known."""

    path: str
    body: dict[str, Any]
    end: bytes
    """What is in a complete answer."""
    piece: bytes = b"\x00"
    """What is in it ``pieces`` times: nothing is lost, and nothing said twice."""
    pieces: int = 0

    @property
    def is_stream(self) -> bool:
        return bool(self.body.get("stream"))


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request: ``complete``, ``error event``, ``cut``, ``wrong``, or its status."""

    outcome: str
    is_stream: bool
    seconds: float
    detail: str = ""

    @property
    def kind(self) -> str:
        return f"{'stream' if self.is_stream else 'whole'} {self.outcome}"


def stub_wishes(*, tokens: int = 24, token_ms: float = 4) -> list[Wish]:
    """Return a stream and a whole answer of tests/standins/stub_engine.py, of a length that a fault can come into."""
    steering = json.dumps({"tokens": tokens, "first_ms": 5, "token_ms": token_ms, "text": " tok", "tag": "NUMBER"})
    body = {"model": "demo", "messages": [{"role": "user", "content": steering}]}
    path = "/v1/chat/completions"
    return [
        Wish(path, {**body, "stream": True}, b"data: [DONE]", b'" tok"', tokens),
        Wish(path, body, b'"finish_reason"', b" tok", tokens),
    ]


def real_wishes(*, tokens: int = 300) -> list[Wish]:
    """Return streams and whole answers of the demo model, each of so many tokens."""
    length = {"ignore_eos": True, "temperature": 0}
    question = "What is NUMBER+2?"
    chat = {"model": "demo", "messages": [{"role": "user", "content": question}], "max_tokens": tokens, **length}
    text = {"prompt": question, "n_predict": tokens, **length}
    return [
        Wish("/v1/chat/completions", {**chat, "stream": True}, b"data: [DONE]"),
        Wish("/v1/chat/completions", chat, b'"completion_tokens":%d' % tokens),
        Wish("/completion", {**text, "stream": True}, b'"tokens_predicted":%d,' % tokens),
        Wish("/completion", text, b'"tokens_predicted":%d' % tokens),
    ]


def ask(connection: HTTPConnection, wish: Wish, *, key: str = "") -> Answer:
    """Ask once. An error of the connection is an outcome too."""
    began = time.monotonic()
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    started = False
    try:
        # Each prompt is another: the same ones would all go to the worker that has seen them.
        body = json.dumps(wish.body).replace("NUMBER", str(random.randrange(1 << 30)))
        connection.request("POST", wish.path, body=body, headers=headers)
        answer = connection.getresponse()
        started = answer.status == 200
        data = answer.read()
    except (HTTPException, OSError) as error:
        connection.close()
        outcome = "cut" if started or not isinstance(error, ConnectionRefusedError) else "refused"
        return Answer(outcome, wish.is_stream, time.monotonic() - began, repr(error)[:200])
    outcome = _judge(wish, data) if started else str(answer.status)
    detail = "" if outcome == "complete" else data[-300:].decode(errors="replace")
    return Answer(outcome, wish.is_stream, time.monotonic() - began, detail)


def _judge(wish: Wish, data: bytes) -> str:
    if wish.end in data:
        return "complete" if data.count(wish.piece) == wish.pieces else "wrong"
    return "error event" if wish.is_stream and b'"error"' in data[-600:] else "without an end"


class Clients:
    """Clients at work; ``answers`` grows."""

    def __init__(self, port: int, wishes: list[Wish], *, count: int, key: str = "", pause: float = 0.0) -> None:
        self.answers: list[Answer] = []
        self.done = [0] * count
        """How many answers each client has had."""
        self._port = port
        self._wishes = wishes
        self._key = key
        self._pause = pause
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask_on, args=(number,)) for number in range(count)]

    def _ask_on(self, number: int) -> None:
        chance = random.Random(number)
        connection = HTTPConnection("127.0.0.1", self._port, timeout=_TIMEOUT)
        while not self._stop.wait(self._pause):
            answer = ask(connection, chance.choice(self._wishes), key=self._key)
            self.answers.append(answer)
            self.done[number] += 1
            if answer.outcome != "complete":
                time.sleep(0.02)
        connection.close()

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let each have its last answer."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def kinds(self) -> dict[str, int]:
        """How many answers there were of each kind."""
        return dict(sorted(Counter(answer.kind for answer in self.answers).items()))

    def find_lost(self, *, may_break_off: bool) -> list[Answer]:
        """Return what should not have been; a stream may end with an error event where its worker failed."""
        fine = {"complete", "error event"} if may_break_off else {"complete"}
        return [answer for answer in self.answers if answer.outcome not in (fine if answer.is_stream else {"complete"})]


@contextmanager
def asking(
    port: int, wishes: list[Wish], *, count: int = 6, key: str = "", pause: float = 0.0
) -> Iterator[Clients]:
    """Have clients ask while the block runs, each so many seconds after it was answered."""
    clients = Clients(port, wishes, count=count, key=key, pause=pause)
    clients.start()
    try:
        yield clients
    finally:
        clients.stop()
