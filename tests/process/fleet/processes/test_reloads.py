"""Every real llama-server of a gateway is replaced in the midst of load, again and again: what is lost by it.

Each second reload is asked for with SIGHUP, the others by an administrator. The short version is a test; the long one
is ``python -m benchmarks.gateway_reloads``.
"""

from __future__ import annotations

import signal
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.processes import is_alive
from tests.scenarios.gateway_clients import asking, real_wishes
from tests.watching import watched

if TYPE_CHECKING:
    from tests.watching import Watched

WORKERS = 3
_KEY = "of the administrator"
_PAUSE = 0.3


@dataclass
class ReloadFigures:
    """What became of the requests."""

    reload_seconds: list[float] = field(default_factory=list)
    """Until every worker was a new one, and the old ones had ended."""
    before_ms: list[float] = field(default_factory=list)
    during_ms: list[float] = field(default_factory=list)
    """What clients waited for whole answers, and for the end of streams of as many tokens."""
    retries: int = 0
    """Requests that were begun a second time, which would be lost where they had not been."""
    answers: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)


def run_reloads(count: int, *, clients: int = 6, tokens: int = 600, pause: float = 0.0) -> ReloadFigures:
    """Replace all workers ``count`` times, while clients ask for answers of ``tokens`` tokens."""
    figures = ReloadFigures()
    model = {"workers": WORKERS, "slots": 4, "threads": 1}
    keys = [{"name": "administrator", "key": _KEY, "is_admin": True}]
    with tempfile.TemporaryDirectory() as folder, watched(Path(folder), model=model, keys=keys) as gateway:
        with asking(gateway.port, real_wishes(tokens=tokens), count=clients, key=_KEY, pause=pause) as load:
            gateway.until(lambda: all(load.done), what="an answer for each client")
            done = len(load.answers)
            for number in range(count):
                figures.reload_seconds.append(_reload(gateway, by_signal=number % 2 == 0))
                time.sleep(_PAUSE)
        gateway.await_idle()
        figures.before_ms = [answer.seconds * 1000 for answer in load.answers[:done]]
        figures.during_ms = [answer.seconds * 1000 for answer in load.answers[done:]]
        figures.retries = gateway.read_figure("llcuda_retries_total", key=_KEY)
        figures.answers = load.kinds
        figures.lost = [f"{answer.kind}: {answer.detail}" for answer in load.find_lost(may_break_off=False)]
    return figures


def _reload(gateway: Watched, *, by_signal: bool) -> float:
    """Return after how many seconds all was replaced."""
    before = {gateway.pid(worker) for worker in gateway.workers}
    assert len(before) == WORKERS
    began = time.monotonic()
    if by_signal:
        gateway.process.send_signal(signal.SIGHUP)
    else:
        status, answer = gateway.ask("/api/admin/reload", {}, key=_KEY)
        assert status == 202, answer

    def is_replaced() -> bool:
        now = {gateway.pid(worker) for worker in gateway.workers}
        return len(now) == WORKERS and not now & before and not any(is_alive(pid) for pid in before)

    gateway.until(is_replaced, what="every worker replaced")
    return time.monotonic() - began


def test_every_worker_is_replaced_and_no_answer_is_cut() -> None:
    figures = run_reloads(2, tokens=80, pause=0.1)
    assert figures.lost == []
    assert figures.retries == 0
    assert len(figures.reload_seconds) == 2
    assert figures.answers.keys() == {"stream complete", "whole complete"}
