"""Workers of a gateway fail in the midst of load, again and again, and come back: what is lost, and how long it takes.

========  ==========================================================  ==========================================
kind      what is done to a worker                                    what is to be noticed
========  ==========================================================  ==========================================
kill      SIGKILL                                                     its death, which is when it fails
stop      SIGSTOP, then SIGCONT                                       its silence, and that it is back
error     it answers every request with a 500                         its first answer
garbage   it answers every request with what is no HTTP               its first answer
cut       it cuts every connection                                    the first cut
silent    it takes requests and says nothing, to its health check     its silence, and that it is back
          neither
========  ==========================================================  ==========================================

``kill`` and ``stop`` are done to the real llama-server or to tests/standins/stub_engine.py, the others to the latter.
Every request has to be answered whole and every stream that has begun has to end; at the end nothing may be left. The
short version is a test; the long one is ``python -m benchmarks.gateway_faults``.
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.processes import wait_until_gone
from tests.scenarios.gateway_clients import asking, real_wishes, stub_wishes
from tests.standins.stub_faults import FAULTS
from tests.watching import watched

if TYPE_CHECKING:
    from tests.scenarios.gateway_clients import Clients
    from tests.watching import Watched

KINDS = ("kill", "stop", *(fault for fault in FAULTS if fault != "stuck"))
# What is stuck answers its health check and takes `hang_timeout` to tell: process/fleet/dispatch/test_progress.py.
MAX_EJECTED_MS = {"kill": 100, "error": 100, "garbage": 100, "cut": 100, "stop": 1000, "silent": 1000}
WORKERS = 3
_IS_SILENT = ("stop", "silent")
_FIRST_REST = 0.5
_ERROR_SECONDS = 1.2
"""How long a worker errs: two rests, and a try in between."""


@dataclass
class FaultFigures:
    """What became of one kind; times in milliseconds."""

    kind: str
    dying_ms: list[float] = field(default_factory=list)
    """From SIGKILL until the process had ended: the kernel takes it off a core and takes its memory back first."""
    noticed_ms: list[float] = field(default_factory=list)
    """From the failure until the gateway knew it."""
    ejected_ms: list[float] = field(default_factory=list)
    """From the failure until the last request was given to the worker; no less than ``noticed_ms``."""
    back_ms: list[float] = field(default_factory=list)
    """From the recovery (of one that was killed: from the kill) until the worker was given a request again."""
    tries: int = 0
    """Requests that it was given while it was known to fail: after each rest, to see whether it is well."""
    retries: int = 0
    answers: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)


def run_faults(
    kind: str, count: int, *, is_real: bool = False, clients: int = 6, tokens: int = 300, pause: float = 0.0
) -> FaultFigures:
    """Let a worker fail ``count`` times, each worker in turn."""
    figures = FaultFigures(f"{kind}, real" if is_real else kind)
    model = {"workers": WORKERS, "slots": 4, "threads": 1}
    with tempfile.TemporaryDirectory() as folder, watched(
        Path(folder), stub=not is_real, forgets=True, model=model
    ) as gateway:
        wishes = real_wishes(tokens=tokens) if is_real else stub_wishes()
        with asking(gateway.port, wishes, count=clients, pause=pause) as load:
            for number in range(count):
                _let_fail(kind, gateway, load, figures=figures, worker=f"demo/{number % WORKERS}")
        gateway.await_idle()
        figures.retries = gateway.read_figure("llcuda_retries_total")
        figures.answers = load.kinds
        lost = load.find_lost(may_break_off=kind not in {*_IS_SILENT, "error", "garbage"})
        figures.lost = [f"{answer.kind}: {answer.detail}" for answer in lost]
    return figures


def _let_fail(kind: str, gateway: Watched, load: Clients, *, figures: FaultFigures, worker: str) -> None:
    gateway.until(lambda: worker in gateway.workers, what=f"{worker} ready")
    time.sleep(random.uniform(0.1, 0.4))
    begin = len(gateway.events)
    run = {"kill": _kill, "stop": _stop, "silent": _fall_silent}.get(kind, _err)
    run(kind, gateway, figures=figures, worker=worker, begin=begin)
    # No request is to meet two failures: one that was under way has been answered before the next.
    before = tuple(load.done)
    gateway.until(lambda: all(map(int.__gt__, load.done, before)), what="an answer for each client")


def _kill(_kind: str, gateway: Watched, *, figures: FaultFigures, worker: str, begin: int) -> None:
    pid = gateway.pid(worker)
    killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    wait_until_gone(pid)
    died = time.monotonic()
    figures.dying_ms.append((died - killed) * 1000)
    noticed = gateway.wait("state", worker=worker, begin=begin, state="waiting").at
    broken = gateway.find("failure", worker=worker, begin=begin)
    # Its sockets may be closed a moment before it has ended.
    noticed = max(died, min(noticed, broken.at) if broken else noticed)
    # It may be given a request as soon as it is ready, which is told a moment later.
    starting = gateway.wait("state", worker=worker, begin=begin, state="starting").at
    ready = gateway.wait("state", worker=worker, begin=begin, state="ready").at
    _note(gateway, figures, worker=worker, begin=begin, times=(died, noticed, starting))
    figures.back_ms.append((_await_take(gateway, worker, begin=begin, after=ready) - killed) * 1000)


def _stop(_kind: str, gateway: Watched, *, figures: FaultFigures, worker: str, begin: int) -> None:
    pid = gateway.pid(worker)
    failed = time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    try:
        noticed = gateway.wait("state", worker=worker, begin=begin, state="silent").at
        time.sleep(random.uniform(0, 0.5))
    finally:
        recovered = time.monotonic()
        os.kill(pid, signal.SIGCONT)
    _come_back(gateway, figures, worker=worker, begin=begin, times=(failed, noticed, recovered))


def _fall_silent(kind: str, gateway: Watched, *, figures: FaultFigures, worker: str, begin: int) -> None:
    failed = time.monotonic()
    gateway.ask_worker(worker, "/stub", {"fault": kind})
    noticed = gateway.wait("state", worker=worker, begin=begin, state="silent").at
    time.sleep(random.uniform(0, 0.5))
    recovered = time.monotonic()
    gateway.ask_worker(worker, "/stub", {"fault": ""})
    _come_back(gateway, figures, worker=worker, begin=begin, times=(failed, noticed, recovered))


def _come_back(
    gateway: Watched, figures: FaultFigures, *, worker: str, begin: int, times: tuple[float, float, float]
) -> None:
    failed, noticed, recovered = times
    _note(gateway, figures, worker=worker, begin=begin, times=(failed, noticed, recovered))
    figures.back_ms.append((_await_take(gateway, worker, begin=begin, after=recovered) - recovered) * 1000)


def _err(kind: str, gateway: Watched, *, figures: FaultFigures, worker: str, begin: int) -> None:
    gateway.ask_worker(worker, "/stub", {"fault": kind})
    met: list[float] = gateway.until(lambda: _read_met(gateway, worker), what=f"{worker} meets its fault")
    noticed = gateway.wait("failure", worker=worker, begin=begin).at
    time.sleep(random.uniform(0, _ERROR_SECONDS))
    recovered = time.monotonic()
    gateway.ask_worker(worker, "/stub", {"fault": ""})
    # Its rest is over then, and a request that is given to it is a try.
    resting = min(recovered, noticed + 0.9 * _FIRST_REST)
    _note(gateway, figures, worker=worker, begin=begin, times=(met[0], noticed, resting))
    figures.tries += len([at for at in gateway.takes(worker, begin) if resting < at < recovered])
    figures.back_ms.append((_await_take(gateway, worker, begin=begin, after=recovered) - recovered) * 1000)


def _read_met(gateway: Watched, worker: str) -> list[float]:
    met: list[float] = gateway.ask_worker(worker, "/stub")["met"]
    return met


def _note(
    gateway: Watched, figures: FaultFigures, *, worker: str, begin: int, times: tuple[float, float, float]
) -> None:
    """Note how soon a failure was known, and that nothing was given to the worker between that and ``end``."""
    failed, noticed, end = times
    last = max([noticed, *(at for at in gateway.takes(worker, begin) if at < end)])
    figures.noticed_ms.append((noticed - failed) * 1000)
    figures.ejected_ms.append((last - failed) * 1000)


def _await_take(gateway: Watched, worker: str, *, begin: int, after: float) -> float:
    def find() -> float | None:
        return next((at for at in gateway.takes(worker, begin) if at >= after), None)

    found: float = gateway.until(find, what=f"{worker} is asked again")
    return found


@pytest.mark.parametrize(
    ("kind", "is_real", "count"), [*((kind, False, 2) for kind in KINDS), ("kill", True, 1), ("stop", True, 1)]
)
def test_nothing_is_lost_and_the_worker_is_left_alone_until_it_is_back(kind: str, *, is_real: bool, count: int) -> None:
    figures = run_faults(kind, count, is_real=is_real, tokens=100, pause=0.1)
    assert figures.lost == []
    assert figures.answers["whole complete"] > 0
    assert figures.answers["stream complete"] > 0
    # The last that it was given was before its failure was known.
    assert figures.ejected_ms == figures.noticed_ms
    assert len(figures.ejected_ms) == len(figures.back_ms) == count
