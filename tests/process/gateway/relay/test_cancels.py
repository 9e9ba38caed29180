"""Clients go away in the midst of real answers: the short version of ``python -m benchmarks.gateway_cancels``."""

from __future__ import annotations

import pytest

from tests.scenarios.gateway_cancels import run_cancels


@pytest.mark.parametrize("kind", ["stream", "whole", "probabilities"])
def test_the_slot_is_free_after_the_client_has_left(kind: str) -> None:
    figures = run_cancels(kind, 8)
    assert len(figures.server_ms) >= 4
    assert figures.cancelled >= 4
