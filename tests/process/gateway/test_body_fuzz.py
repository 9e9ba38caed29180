"""Fuzzed bodies to the real llama-server: the short version of ``python -m benchmarks.body_fuzz``."""

from __future__ import annotations

import pytest

from tests.scenarios.body_fuzz import FAMILIES, fuzz


@pytest.mark.timeout(600)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_body_ends_a_worker_or_keeps_it_busy_or_changes_another_answer(family: str) -> None:
    figures = fuzz(family, 40, lanes=1, patience=60, bound=60)
    assert figures.findings == []
    assert figures.bodies == 40
    assert figures.questions >= 10
    assert figures.statuses["200"]
