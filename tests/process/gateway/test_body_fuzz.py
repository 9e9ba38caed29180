"""Fuzzed bodies to real llama-servers behind a gateway: is one lost, kept busy, or does it answer another client wrong.

Each lane is a gateway of its own with one worker, and sends one body at a time, so that what happens is that body's
doing. Every few bodies another client asks a question of a known answer meanwhile, and after a body that had no answer
in time, or whose client left, the worker has to be idle again within its bound. Its memory is bounded too.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.http_asker import HttpAsker
from tests.inputs.fuzzed_bodies import FAMILIES, choose_body
from tests.inputs.hostile_requests import KEY
from tests.processes import is_alive, read_peak
from tests.scenarios.known_answers import choose_sum, judge, make_body
from tests.served_process import serving_process

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from tests.inputs.fuzzed_bodies import Fuzzed
    from tests.served_process import ServedProcess

_MODEL = "demo"
_QUESTION_EVERY = 4
_LEAVING = 0.1
_RECOVERY = 120.0
_MOST_MIB = 1024
"""Of a worker's memory, of which it needs 100 without any."""
_TELLING = 2.0
"""Seconds for the gateway to log why a worker ended."""
_FINE = ("2", "4", "left", "502 schema_mismatch")
"""What may be answered: 200, 4xx, and that the answer does not hold to its schema."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a body did."""

    kind: str
    number: int
    path: str
    body: str
    detail: str = ""


@dataclass
class FuzzFigures:
    """Of one family."""

    family: str
    bodies: int = 0
    seconds: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    """How often there was a finding of each kind."""
    findings: list[Finding] = field(default_factory=list)
    questions: int = 0


class _Lane:
    """A gateway that is sent bodies, one after the other."""

    def __init__(
        self, served: ServedProcess, figures: FuzzFigures, *, seed: int, patience: float, bound: float
    ) -> None:
        self._served = served
        self._figures = figures
        self._seed = seed
        self._patience, self._bound = patience, bound
        self._asker = HttpAsker(served.port, key=KEY)
        self._other = HttpAsker(served.port, key=KEY)
        self._workers = set(served.find_workers())

    async def run(self, numbers: range) -> None:
        for number in numbers:
            # Each body has a seed of its own: a finding can be repeated alone.
            chance = random.Random(f"{self._seed} {self._figures.family} {number}")
            fuzzed = choose_body(chance, self._figures.family, model=_MODEL, is_costly=True)
            await self._try(fuzzed, number, chance)
        self._asker.leave()
        self._other.leave()

    async def _try(self, fuzzed: Fuzzed, number: int, chance: random.Random) -> None:
        body = json.dumps(fuzzed.body)
        found: list[tuple[str, str]] = []
        question = asyncio.ensure_future(self._ask(chance)) if number % _QUESTION_EVERY == 0 else None
        patience = chance.expovariate(30) if chance.random() < _LEAVING else 0
        status, detail = await self._send(fuzzed.path, body, patience=patience)
        self._figures.bodies += 1
        self._figures.statuses[status] += 1
        if not status.startswith(_FINE):
            found.append((f"status {status}" if status[0].isdigit() else status, detail))
        if question is not None and (wrong := await question):
            found.append(("another client's answer", wrong))
        if status.startswith(("left", "no answer", "cut")) and not await self._is_idle_in_time(chance):
            found.append((f"busy for more than {self._bound} s", ""))
        if not all(map(is_alive, self._workers)):
            await asyncio.sleep(_TELLING)
            found.append(("worker lost", self._served.log()[-2000:]))
        elif (peak := max(map(read_peak, self._workers))) > _MOST_MIB:
            found.append(("memory", f"{peak:.0f} MiB"))
        for kind, detail in found:
            self._figures.kinds[kind] += 1
            self._figures.findings.append(Finding(kind, number, fuzzed.path, body, detail))
        if any(kind.startswith(("busy", "worker", "memory", "another", "cut")) for kind, _ in found):
            await self._recover()

    async def _send(self, path: str, body: str, *, patience: float) -> tuple[str, str]:
        """Return what became of it, and of an error what it says."""
        try:
            reply = await self._asker.ask(path, body.encode(), seconds=patience or self._patience)
        except TimeoutError:
            return ("left" if patience else f"no answer within {self._patience} s"), ""
        except (ConnectionError, EOFError) as error:
            return "cut", repr(error)
        end = reply.data[-2000:].decode(errors="replace")
        if reply.is_stream and '"error"' in end:
            told = end[end.index('"error"') :]
            if "does not hold to the schema" in told:
                return "502 schema_mismatch", ""  # as a whole answer says it: the model did not, and nobody else
            refused = re.match(r'"error": ?\{"code":(4\d\d),', told)
            return ("error event", told) if refused is None or "worker_failed" in told else (refused[1], "")
        if reply.status < 500:
            return str(reply.status), ""
        return f"{reply.status} {reply.code}".rstrip(), reply.reason

    async def _ask(self, chance: random.Random) -> str:
        """Return what is wrong with the answer to a question, within the time that a body may take and the bound."""
        question, patience = choose_sum(chance, model=_MODEL), self._patience + self._bound
        self._figures.questions += 1
        try:
            return judge(question, await self._other.ask(question.path, make_body(question), seconds=patience))
        except TimeoutError:
            return f"none within {patience} s"
        except (ConnectionError, EOFError) as error:
            return repr(error)

    async def _is_idle_in_time(self, chance: random.Random) -> bool:
        """Tell whether llama-server itself says that nothing is under way, and answers, before the bound."""
        end = time.monotonic() + self._bound
        while time.monotonic() < end:
            try:
                reply = await self._other.ask("/slots", seconds=end - time.monotonic())
            except (TimeoutError, ConnectionError, EOFError):
                return False
            if reply.status == 200 and reply.fields and not any(slot["is_processing"] for slot in reply.fields):
                return not await self._ask(chance)
            await asyncio.sleep(0.01)
        return False

    async def _recover(self) -> None:
        """Go on with a worker that is idle: what was found shall not count for the next body too."""
        for pid in self._served.find_workers():
            os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + _RECOVERY
        chance = random.Random(0)
        while time.monotonic() < end:
            await asyncio.sleep(0.2)
            self._workers = set(self._served.find_workers())
            if self._workers and self._served.is_whole() and not await self._ask(chance):
                return
        raise AssertionError("no worker comes back: " + self._served.log()[-1000:])


def fuzz(
    family: str,
    count: int,
    *,
    seed: int = 0,
    lanes: int = 2,
    first: int = 0,
    model: Path | None = None,
    patience: float = 5.0,
    bound: float = 10.0,
) -> FuzzFigures:
    """Send so many bodies of a family, from the one numbered ``first`` on.

    A body has to be answered within ``patience`` seconds, else its client leaves. After that the worker has to be idle
    within ``bound`` seconds, which is when the gateway gives it up.
    """
    figures = FuzzFigures(family)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llcuda-fuzz-")))
        served = []
        for number in range(min(lanes, count)):
            (folder / str(number)).mkdir()
            served.append(stack.enter_context(_serve(folder / str(number), model, bound)))
        began = time.monotonic()
        lanes_used = [_Lane(one, figures, seed=seed, patience=patience, bound=bound) for one in served]
        asyncio.run(_run(lanes_used, range(first, first + count)))
        figures.seconds = time.monotonic() - began
    return figures


async def _run(lanes: list[_Lane], numbers: range) -> None:
    await asyncio.gather(*(lane.run(numbers[place :: len(lanes)]) for place, lane in enumerate(lanes)))


def _serve(folder: Path, model: Path | None, bound: float) -> AbstractContextManager[ServedProcess]:
    name = "demo" if model is None else str(model.resolve())
    models: list[dict[str, Any]] = [{"name": _MODEL, "model": name, "slots": 2, "ctx_size": 1024}]
    return serving_process(folder, models, key=KEY, hang_timeout=bound)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_body_ends_a_worker_or_keeps_it_busy_or_changes_another_answer(family: str) -> None:
    figures = fuzz(family, 40, lanes=1, patience=60, bound=60)
    assert figures.findings == []
    assert figures.bodies == 40
    assert figures.questions >= 10
    assert figures.statuses["200"]
