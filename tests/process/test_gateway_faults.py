"""Workers fail in the midst of load: the short version of ``python -m benchmarks.gateway_faults``."""

from __future__ import annotations

import pytest

from tests.gateway_faults import KINDS, MAX_EJECTED_MS, run_faults
from tests.processes import allowed_ms


@pytest.mark.parametrize(("kind", "is_real"), [*((kind, False) for kind in KINDS), ("kill", True), ("stop", True)])
def test_nothing_is_lost_and_the_worker_is_left_alone_until_it_is_back(kind: str, *, is_real: bool) -> None:
    figures = run_faults(kind, 3, is_real=is_real)
    assert figures.lost == []
    assert figures.answers["whole complete"] > 3
    assert figures.answers["stream complete"] > 3
    assert len(figures.ejected_ms) == len(figures.back_ms) == 3
    # Generous: on a busy machine a killed process waits for its turn to die.
    assert max(figures.ejected_ms) < allowed_ms(10 * MAX_EJECTED_MS[kind])
    assert max(figures.back_ms) < allowed_ms(15_000)
