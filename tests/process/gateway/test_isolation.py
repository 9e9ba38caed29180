"""Does one client's request change another's answer: fuzzed ones beside questions of known answers, on the same worker.

Every question is asked greedily, and its answer is known word for word: any other is wrong. Beside it, on the same
workers, requests of every family are sent, some are left in the midst. For each wrong answer it is kept what the worker
had been sent before, as the audit log tells, so that the cause can be found.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.http_asker import HttpAsker
from tests.inputs.fuzzed_bodies import FAMILIES, choose_body, choose_prompt_list
from tests.inputs.hostile_requests import KEY
from tests.scenarios.known_answers import choose_question, choose_sum, judge, make_body
from tests.served_process import serving_process, settle

if TYPE_CHECKING:
    from tests.inputs.fuzzed_bodies import Fuzzed
    from tests.scenarios.known_answers import Question
    from tests.served_process import ServedProcess

_PATIENCE = 60.0
_MAX_FAILED = 12
"""Questions without an answer after which nothing more is to be learnt."""
_LEAVING = 0.15
_FUZZED_PATIENCE = 10.0
_KEPT = 64
"""Fuzzed requests that are kept, of all workers."""
_MAX_WRONG = 20
"""Wrong answers that are kept whole."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """A question, what was answered, and the requests that were sent in the time before."""

    question: str
    outcome: str
    worker: str
    before: list[str]
    """The newest first; those that the same worker had, if the log knows."""


@dataclass
class IsolationFigures:
    """What was asked, and what was not right."""

    questions: int = 0
    seconds: float = 0.0
    fuzzed: Counter[str] = field(default_factory=Counter)
    """Statuses of the fuzzed requests."""
    failed: Counter[str] = field(default_factory=Counter)
    """Questions that were not answered, by the reason."""
    wrong: list[Wrong] = field(default_factory=list)
    wrong_count: int = 0
    restarts: int = 0
    log: str = ""
    """What the gateway logged, why workers ended among it."""
    in_use: dict[str, float] = field(default_factory=dict)
    """What is still counted when nobody asks any more."""


class _Isolation:
    def __init__(
        self, served: ServedProcess, *, questions: int, seed: int, clients: int, families: tuple[str, ...]
    ) -> None:
        self._served = served
        self._families = families
        self._left = questions
        self._chance = random.Random(seed)
        self._clients = clients
        self._sent: deque[tuple[str, float, str]] = deque(maxlen=_KEPT)
        self._wrong: list[tuple[Question, str, str, list[tuple[str, float, str]]]] = []
        self._number = 0
        self.figures = IsolationFigures()

    async def run(self) -> None:
        began = time.monotonic()
        fuzzers = [asyncio.ensure_future(self._fuzz_on()) for _ in range(self._clients)]
        await asyncio.gather(*(self._ask_on() for _ in range(self._clients)))
        self.figures.seconds = time.monotonic() - began
        for fuzzer in fuzzers:
            fuzzer.cancel()
        await asyncio.gather(*fuzzers, return_exceptions=True)

    async def _ask_on(self) -> None:
        asker = HttpAsker(self._served.port, key=KEY)
        while self._left > 0 and self.figures.failed.total() < _MAX_FAILED:
            self._left -= 1
            question = choose_question(self._chance) if self._chance.random() < 0.5 else choose_sum(self._chance)
            identity = self._name_next("question")
            try:
                reply = await asker.ask(question.path, make_body(question), request_id=identity, seconds=_PATIENCE)
                outcome = judge(question, reply)
            except (ConnectionError, EOFError, TimeoutError) as error:
                outcome = f"cut: {error!r}"
            self.figures.questions += 1
            if outcome.startswith("wrong"):
                self.figures.wrong_count += 1
                if len(self._wrong) < _MAX_WRONG:
                    self._wrong.append((question, outcome, identity, list(self._sent)))
            elif outcome:
                self.figures.failed[outcome.partition(":")[0]] += 1
        asker.leave()

    async def _fuzz_on(self) -> None:
        """Send one after the other; leave some in the midst."""
        asker = HttpAsker(self._served.port, key=KEY)
        while True:
            fuzzed, identity = self._choose(), self._name_next("fuzzed")
            body = json.dumps(fuzzed.body)
            self._sent.append((identity, time.monotonic(), f"{fuzzed.path} {body}"))
            leaves = self._chance.random() < _LEAVING
            patience = self._chance.expovariate(50) if leaves else _FUZZED_PATIENCE
            try:
                reply = await asker.ask(fuzzed.path, body.encode(), request_id=identity, seconds=patience)
                self.figures.fuzzed[str(reply.status)] += 1
            except TimeoutError:
                self.figures.fuzzed["left" if leaves else f"no answer within {_FUZZED_PATIENCE} s"] += 1
            except (ConnectionError, EOFError):
                self.figures.fuzzed["cut"] += 1
            finally:
                if self._chance.random() < 0.05:
                    asker.leave()

    def _choose(self) -> Fuzzed:
        if self._chance.random() < 0.1:
            return choose_prompt_list(self._chance)
        return choose_body(self._chance, self._chance.choice(self._families))

    def _name_next(self, kind: str) -> str:
        self._number += 1
        return f"{kind}-{self._number}"

    def read_causes(self) -> None:
        """Say of each wrong answer what its worker had been sent before, once the log is written."""
        workers: dict[str, str] = {}
        for line in self._served.audit.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):
                record = json.loads(line)
                workers[record["id"]] = record["worker"] or ""
        for question, outcome, identity, sent in self._wrong:
            worker = workers.get(identity, "")
            before = [text for name, _, text in reversed(sent) if workers.get(name, worker) in {worker, ""}]
            self.figures.wrong.append(Wrong(make_body(question).decode(), outcome, worker, before))


def run_isolation(
    questions: int, *, seed: int = 0, clients: int = 6, families: tuple[str, ...] = tuple(FAMILIES)
) -> IsolationFigures:
    """Ask so many questions of two workers of the demo model, while as many clients send them what they like."""
    models: list[dict[str, Any]] = [{"name": "demo", "model": "demo", "workers": 2, "slots": 4}]
    with tempfile.TemporaryDirectory(prefix="llcuda-isolation-") as folder:
        with serving_process(Path(folder), models, key=KEY) as served:
            run = _Isolation(served, questions=questions, seed=seed, clients=clients, families=families)
            asyncio.run(run.run())
            run.figures.in_use = settle(served)
            run.figures.restarts = served.count_restarts()
            run.figures.log = served.log()
            run.read_causes()
        return run.figures


@pytest.mark.timeout(600)
def test_questions_of_known_answers_are_answered_right_whatever_others_send() -> None:
    figures = run_isolation(300)
    assert figures.wrong == []
    assert not figures.failed
    assert figures.in_use == {}
    assert figures.questions == 300
    assert figures.fuzzed["200"] > 10
    assert figures.fuzzed["left"] > 0
