"""Clients go away in the midst of real answers: the short version of ``python -m benchmarks.gateway_cancels``."""

from __future__ import annotations

import pytest

from tests.gateway_cancels import run_cancels
from tests.processes import allowed_ms
from tests.watching import percentile


@pytest.mark.parametrize("kind", ["stream", "whole"])
def test_the_slot_is_free_soon_after_the_client_has_left(kind: str) -> None:
    figures = run_cancels(kind, 20)
    assert len(figures.server_ms) > 10
    assert percentile(figures.server_ms, 0.5) < allowed_ms(500)
