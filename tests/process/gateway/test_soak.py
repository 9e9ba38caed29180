"""A gateway under everything at once: the short version of ``python -m benchmarks.soak``."""

from __future__ import annotations

import pytest

from tests.scenarios.soak import Soak, run_soak


@pytest.mark.timeout(900)
def test_every_answer_is_right_and_nothing_is_left_when_all_have_gone() -> None:
    # Memory has not come to rest within a minute: what grows without end is for the long run to tell.
    figures = run_soak(
        Soak(
            6,
            pause_interval=2,
            reload_interval=4,
            kill_interval=3,
            client_interval=3,
            memory_tolerance=0.5,
            faults=3,
            warming=100,
            processes=(("http", 12), ("openai", 6), ("grpc", 4)),
        )
    )
    assert figures.violations == []
    assert figures.outcomes["right"] > 20
    assert figures.outcomes["left"] > 10
    assert figures.outcomes["refused"] > 0
    assert sum(figures.faults.values()) >= 6
