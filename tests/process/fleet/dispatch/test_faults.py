"""Workers fail in the midst of load: the short version of ``python -m benchmarks.gateway_faults``."""

from __future__ import annotations

import pytest

from tests.scenarios.gateway_faults import KINDS, run_faults


@pytest.mark.parametrize(("kind", "is_real"), [*((kind, False) for kind in KINDS), ("kill", True), ("stop", True)])
def test_nothing_is_lost_and_the_worker_is_left_alone_until_it_is_back(kind: str, *, is_real: bool) -> None:
    figures = run_faults(kind, 3, is_real=is_real)
    assert figures.lost == []
    assert figures.answers["whole complete"] > 3
    assert figures.answers["stream complete"] > 3
    # The last that it was given was before its failure was known.
    assert figures.ejected_ms == figures.noticed_ms
    assert len(figures.ejected_ms) == len(figures.back_ms) == 3
