"""A gateway under everything at once, for long: what is wrong in its answers, and what is left when all have gone.

One real ``llcuda serve`` with two workers of the demo model, and one of another model if its path is given. Clients in
processes of their own ask over HTTP and gRPC, leave in the midst and send bad bodies (tests/scenarios/soak_clients.py);
some of the processes are killed, and started anew. Workers are killed, and all of them replaced, again and again.

At the end everything is looked at that could not have been seen meanwhile: every answer was right, every counter is
zero, a key's requests are counted right, and descriptors, memory and children are those after the warm-up. A 5xx, or a
stream that ends with an error event, is explained by the death of a worker alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.http_asker import HttpAsker
from tests.inputs.hostile_bodies import MAX_BODY_BYTES
from tests.inputs.hostile_requests import KEY
from tests.places import ROOT
from tests.processes import wait_until
from tests.scenarios.known_answers import choose_sum, judge, make_body
from tests.served_process import ADMIN, BOUNDED, MAX_IN_FLIGHT, serving_process, settle
from tests.watching import percentile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.served_process import Footprint, ServedProcess

_AFTER_FAULT = 5.0
"""Seconds after a worker is back in which an answer may still come that it broke."""
_PATIENCE = 120.0
_FAULTS_PATIENCE = 240.0
_BETWEEN = 60
"""Answers between two faults."""
_TOLERANCE = 0.1
_IDLE = 6.0
"""Seconds in which llama-server closes idle connections; how many there are before is chance."""


@dataclass(frozen=True, slots=True)
class Soak:
    """How long, and how often what is done."""

    seconds: float
    model: Path | None = None
    seed: int = 0
    pause_interval: float = 25.0
    """Between two times at which all clients leave, and every count has to be zero."""
    reload_interval: float = 60.0
    kill_interval: float = 45.0
    client_interval: float = 30.0
    """Between two killed processes of clients."""
    warm_up: float = 180.0
    memory_tolerance: float = _TOLERANCE
    faults: int = 0
    """How many there have to be at least in the warm-up and then."""
    warming: int = 400
    """Questions before each measurement, so that what is measured has done the same."""
    processes: tuple[tuple[str, int], ...] = (
        *(("http", 8), ("http", 8), ("http", 4), ("openai", 6), ("openai", 6), ("grpc", 4), ("grpc", 4)),
    )
    """Kinds of client, and how many there are in each process: 32 over HTTP, and 8 over gRPC."""


@dataclass
class SoakFigures:
    """What was counted, and what should not have been."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    explained: Counter[str] = field(default_factory=Counter)
    """Answers that the death of a worker explains."""
    violations: list[str] = field(default_factory=list)
    health_ms: list[float] = field(default_factory=list)
    canary_ms: list[float] = field(default_factory=list)
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        """Return all of it as JSON can write it."""
        return {item.name: _to_plain(getattr(self, item.name)) for item in fields(self)}

    def rows(self) -> Iterator[tuple[str, str]]:
        """Return what a table shows."""
        for name, counter in (("answers", self.outcomes), ("faults", self.faults), ("explained", self.explained)):
            for kind, number in sorted(counter.items()):
                yield f"{name}: {kind}", f"{number:,}"
        for name, values in (("/health, ms p50 / p99 / max", self.health_ms), ("a question, ms", self.canary_ms)):
            if values:
                yield name, " / ".join(f"{percentile(values, share):.0f}" for share in (0.5, 0.99, 1.0))
        for name, value in self.before.items():
            yield f"{name}: before, after, largest", f"{value}, {self.after.get(name)}, {self.peaks.get(name, '')}"
        yield "violations", str(len(self.violations))


class _ClientProcess:
    """Clients in a process of their own."""

    def __init__(self, kind: str, wishes: dict[str, Any], *, run: _Run) -> None:
        self.kind = kind
        self._run = run
        self.counts: Counter[str] = Counter()
        command = [sys.executable, "-m", "tests.scenarios.soak_clients", json.dumps({"kind": kind, **wishes})]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), *filter(None, sys.path)))}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=environment, **pipes)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            if not line.endswith("\n"):
                return  # it was killed in the midst of it
            facts = json.loads(line)
            if facts["event"] == "counts":
                self.counts = Counter(facts["counts"])
            else:
                self._run.anomalies.append(facts)

    def tell(self, word: str) -> None:
        """Tell them to ``pause``, to ``go`` on, or to ``stop``."""
        assert self.process.stdin
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def finish(self, *, kill: bool = False) -> None:
        """Wait for its end, or bring it about, and add what it has counted."""
        if kill:
            self.process.kill()
        try:
            self.process.wait(180)
        except subprocess.TimeoutExpired:
            self._run.figures.violations.append(f"clients ({self.kind}) that do not come to their end")
            self.process.kill()
            self.process.wait()
        self._reader.join()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream
            stream.close()
        self._run.figures.outcomes.update(self.counts)


class _Run:
    """One soak under way."""

    def __init__(self, soak: Soak, served: ServedProcess) -> None:
        self.soak = soak
        self.served = served
        self.figures = SoakFigures()
        self.anomalies: list[dict[str, Any]] = []
        self.windows: list[tuple[float, float]] = []
        """From when to when the death of a worker explains what is broken, of the clock."""
        self._chance = random.Random(soak.seed)
        self._names = count()
        self._over = threading.Event()
        self._clients: list[_ClientProcess] = []

    def soak_on(self) -> SoakFigures:
        """Run all of it."""
        probes = [threading.Thread(target=self._probe_health), threading.Thread(target=self._ask_canary)]
        for probe in probes:
            probe.start()
        try:
            self._load_for(min(self.soak.warm_up, self.soak.seconds / 3))
            self.figures.before = self._measure()
            self._load_for(self.soak.seconds)
            self._check_end()
        finally:
            self._over.set()
            for client in self._clients:
                client.finish(kill=True)
            for probe in probes:
                probe.join()
        self._explain()
        return self.figures

    def _load_for(self, seconds: float) -> None:
        """Let all clients ask for so long, and go."""
        end = time.monotonic() + seconds
        self._clients = [self._start_clients(kind, number) for kind, number in self.soak.processes]
        soak = self.soak
        due = {
            "pause": (soak.pause_interval, self._pause),
            "worker killed": (soak.kill_interval, self._kill_worker),
            "reload": (soak.reload_interval, self._replace_workers),
            "clients killed": (soak.client_interval, self._kill_clients),
        }
        times = {name: time.monotonic() + interval * 0.5 for name, (interval, _) in due.items()}
        begun, acted = self.figures.faults.total(), self._count_answers()
        # On a busy machine clients take long to start, and something has to happen between two faults.
        last = end + _FAULTS_PATIENCE
        while time.monotonic() < end or (time.monotonic() < last and self.figures.faults.total() - begun < soak.faults):
            time.sleep(0.2)
            self._note_peaks()
            for name, (interval, act) in due.items():
                if time.monotonic() >= times[name] and self._count_answers() - acted >= _BETWEEN:
                    act()
                    acted = self._count_answers()
                    times[name] = time.monotonic() + interval * self._chance.uniform(0.8, 1.2)
        for client in self._clients:
            client.tell("stop")
        for client in self._clients:
            client.finish()
        self._clients = []
        self._check_counts()

    def _count_answers(self) -> int:
        return self.figures.outcomes.total() + sum(client.counts.total() for client in self._clients)

    def _start_clients(self, kind: str, number: int) -> _ClientProcess:
        models = 1 if self.soak.model is None else 2
        name = f"{kind}{next(self._names)}"
        wishes = {"name": name, "port": self.served.port, "grpc_port": self.served.grpc_port, "models": models}
        wishes |= {"count": number, "seed": self._chance.randrange(1 << 30)}
        return _ClientProcess(kind, wishes, run=self)

    def _pause(self) -> None:
        """Have all clients leave at once, and see that nothing is counted any more."""
        for client in self._clients:
            client.tell("pause")
        self._check_counts()
        self.figures.faults["pauses"] += 1
        for client in self._clients:
            client.tell("go")

    def _check_counts(self) -> None:
        for what, left in settle(self.served).items():
            self.figures.violations.append(f"{_show(time.time())} nobody asks, and yet: {what.strip()} is {left:g}")

    def _kill_clients(self) -> None:
        place = self._chance.randrange(len(self._clients))
        kind, number = self.soak.processes[place]
        self._clients[place].finish(kill=True)
        self._clients[place] = self._start_clients(kind, number)
        self.figures.faults[f"processes of clients killed ({kind})"] += 1

    def _replace_workers(self) -> None:
        self._pause()  # a new worker starts at zero, whatever was counted of the one before
        self._reload()

    def _reload(self) -> None:
        status = self.served.reload()
        self.figures.faults[f"reloads ({status})"] += 1
        if status not in {202, 409}:
            self.figures.violations.append(f"a reload was answered with {status}")

    def _kill_worker(self) -> None:
        self._pause()
        time.sleep(1)
        workers = self.served.find_workers()
        if not workers:
            return
        pid = self._chance.choice(sorted(workers))
        began = time.time()
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return  # a reload has just ended it
        self.figures.faults[f"workers killed ({workers[pid]})"] += 1
        self.windows.append((began, float("inf")))
        threading.Thread(target=self._close_window, args=(len(self.windows) - 1,)).start()

    def _close_window(self, place: int) -> None:
        """Note when every worker is back."""
        began = self.windows[place][0]
        try:
            time.sleep(0.5)
            wait_until(self.served.is_whole, timeout=_PATIENCE, what="every worker is back")
        except AssertionError as error:
            self.figures.violations.append(f"after a worker was killed: {error}")
        self.windows[place] = (began, time.time() + _AFTER_FAULT)

    def _note_peaks(self) -> None:
        held = self.served.measure()
        for name, value in _to_figures(held).items():
            self.figures.peaks[name] = max(self.figures.peaks.get(name, 0), value)

    def _measure(self) -> dict[str, float]:
        """Let new workers have answered the same number of questions, and return what all of it holds."""
        wait_until(self.served.is_whole, timeout=_PATIENCE, what="every worker ready")
        before = self.served.find_workers()
        wait_until(lambda: self.served.reload() == 202, timeout=_PATIENCE, what="a reload begins")
        wait_until(lambda: self._are_replaced(before), timeout=_PATIENCE, what="every worker replaced")
        asyncio.run(self._ask(self.soak.warming, at_once=8, key=KEY))
        self._check_counts()
        time.sleep(_IDLE)
        return _to_figures(self.served.measure())

    def _are_replaced(self, before: dict[int, str]) -> bool:
        now = self.served.find_workers()
        return len(now) == len(before) and not now.keys() & before.keys() and self.served.is_whole()

    async def _ask(self, number: int, *, at_once: int, key: str) -> None:
        """Ask so many sums, and note whatever is wrong."""
        left = iter(range(number))

        async def ask_on() -> None:
            asker = HttpAsker(self.served.port, key=key)
            for _ in left:
                question = choose_sum(self._chance)
                if wrong := judge(question, await asker.ask(question.path, make_body(question))):
                    self.figures.violations.append(f"nothing else is under way, and an answer is {wrong}")
            asker.leave()

        await asyncio.gather(*(ask_on() for _ in range(at_once)))

    def _check_end(self) -> None:
        self.figures.after = self._measure()
        end = time.monotonic() + _PATIENCE
        while self._find_grown() and time.monotonic() < end:  # llama-server may close what is idle later
            time.sleep(1)
            self.figures.after = _to_figures(self.served.measure())
        self.figures.violations += self._find_grown()
        # As many as the key may have at once: one that was not given back leaves too few.
        asyncio.run(self._ask(3 * MAX_IN_FLIGHT, at_once=MAX_IN_FLIGHT, key=BOUNDED))

    def _find_grown(self) -> list[str]:
        """Return what of the figures is not as it was before."""
        found = []
        for name, before in self.figures.before.items():
            after = self.figures.after.get(name, 0.0)
            tolerance = self.soak.memory_tolerance if name.endswith("MiB") else _TOLERANCE
            if abs(after - before) > tolerance * before:
                found.append(f"{name}: {before:g} before, {after:g} after")
        return found

    def _probe_health(self) -> None:
        while not self._over.wait(0.2):
            began = time.monotonic()
            try:
                status, data = self.served.ask("/health", timeout=_PATIENCE)
            except OSError as error:
                status, data = 0, repr(error).encode()
            self.figures.health_ms.append(1000 * (time.monotonic() - began))
            if status != 200:
                self.figures.violations.append(f"{_show(time.time())} /health: {status} {data[:200]!r}")

    def _ask_canary(self) -> None:
        """Ask a question that comes first in the queue: it has to be answered while /health is ok."""
        chance = random.Random(self.soak.seed + 1)
        while not self._over.wait(2):
            question, began = choose_sum(chance, stream=False), time.monotonic()
            try:
                status, data = self.served.ask(question.path, question.body, key=ADMIN, timeout=_PATIENCE)
                text = json.loads(data)["choices"][0]["message"]["content"] if status == 200 else data[:200].decode()
            except OSError as error:
                status, text = 0, repr(error)
            self.figures.canary_ms.append(1000 * (time.monotonic() - began))
            if text != question.answer:
                outcome = f"{status} {text}" if status != 200 else f"wrong: {text!r} for {question.answer!r}"
                self.anomalies.append({"at": time.time(), "id": "canary", "outcome": outcome, "asked": question.path})

    def _explain(self) -> None:
        """Count what is explained by the death of a worker, and note the rest."""
        for facts in self.anomalies:
            kind = facts["outcome"].partition(":")[0]
            # A question that two workers were killed at looks like what they died of.
            broken = ("422 fatal_request", "502", "503", "error event", "gRPC UNAVAILABLE", "gRPC INTERNAL")
            may_break = kind.startswith(broken)
            if may_break and self._is_explained(facts["at"]):
                self.figures.explained[kind] += 1
            else:
                what = f"{_show(facts['at'])} {facts['id']} {facts['outcome']} -- {facts['asked']}"
                self.figures.violations.append(what)
        self._read_audit()

    def _is_explained(self, at: float) -> bool:
        return any(began <= at <= ended for began, ended in self.windows)

    def _read_audit(self) -> None:
        """Look for errors of the gateway's that no client has told of: those of clients that were killed."""
        told = {facts["id"] for facts in self.anomalies}
        for line in self.served.audit.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            if record["status"] < 500 or record["id"] in told or "/hostile" in record["path"]:
                continue
            at = datetime.fromisoformat(record["time"]).timestamp()
            ended = at + record["duration_ms"] / 1000
            if record["status"] in {502, 503} and (self._is_explained(at) or self._is_explained(ended)):
                self.figures.explained[f"{record['status']} that nobody read"] += 1
            elif record["status"] not in {501, 505}:
                self.figures.violations.append(f"{_show(ended)} {record['id']} {record['status']} in the audit log")


def _to_plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Counter) else value


def _show(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%H:%M:%S.%f")[:-3]


def _to_figures(held: Footprint) -> dict[str, float]:
    figures = {"descriptors": held.descriptors, "children": held.children, "gateway MiB": round(held.gateway_mib, 1)}
    return {**figures, **{f"worker of {name} MiB": round(mib, 1) for name, mib in held.workers_mib.items()}}


def run_soak(soak: Soak) -> SoakFigures:
    """Run one, and return what was seen."""
    models: list[dict[str, Any]] = [{"name": "demo", "model": "demo", "workers": 2}]
    if soak.model is not None:
        models.append({"name": "large", "model": str(soak.model.resolve()), "workers": 1, "slots": 2, "ctx_size": 512})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llcuda-soak-")))
        options = {"max_body_bytes": MAX_BODY_BYTES, "header_timeout": 2, "body_timeout": 2}
        served = stack.enter_context(serving_process(folder, models, key=KEY, **options))
        return _Run(soak, served).soak_on()


@pytest.mark.timeout(900)
def test_every_answer_is_right_and_nothing_is_left_when_all_have_gone() -> None:
    # Memory has not come to rest within a minute: what grows without end is for the long run to tell.
    figures = run_soak(
        Soak(
            4,
            pause_interval=1.5,
            reload_interval=3,
            kill_interval=2,
            client_interval=2,
            memory_tolerance=0.5,
            faults=2,
            warming=60,
            processes=(("http", 12), ("grpc", 4)),
        )
    )
    assert figures.violations == []
    assert figures.outcomes["right"] > 20
    assert figures.outcomes["left"] > 10
    assert figures.outcomes["refused"] > 0
    assert sum(figures.faults.values()) >= 4
