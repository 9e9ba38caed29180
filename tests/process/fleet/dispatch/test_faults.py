"""Workers fail in the midst of load: the short version of ``python -m benchmarks.gateway_faults``."""

from __future__ import annotations

import pytest

from tests.scenarios.gateway_faults import KINDS, run_faults


@pytest.mark.parametrize(
    ("kind", "is_real", "count"), [*((kind, False, 2) for kind in KINDS), ("kill", True, 1), ("stop", True, 1)]
)
def test_nothing_is_lost_and_the_worker_is_left_alone_until_it_is_back(kind: str, *, is_real: bool, count: int) -> None:
    figures = run_faults(kind, count, is_real=is_real, tokens=100)
    assert figures.lost == []
    assert figures.answers["whole complete"] > 0
    assert figures.answers["stream complete"] > 0
    # The last that it was given was before its failure was known.
    assert figures.ejected_ms == figures.noticed_ms
    assert len(figures.ejected_ms) == len(figures.back_ms) == count
