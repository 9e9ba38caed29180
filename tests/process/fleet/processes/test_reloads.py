"""Workers are replaced in the midst of load: the short version of ``python -m benchmarks.gateway_reloads``."""

from __future__ import annotations

from tests.scenarios.gateway_reloads import run_reloads


def test_every_worker_is_replaced_and_no_answer_is_cut() -> None:
    figures = run_reloads(2, tokens=80)
    assert figures.lost == []
    assert figures.retries == 0
    assert len(figures.reload_seconds) == 2
    assert figures.answers.keys() == {"stream complete", "whole complete"}
