"""What a gateway counts is what is under way, whatever its clients and its workers do."""

from __future__ import annotations

from tests.scenarios.gateway_machine import run_machine


def test_counts_stay_right_through_a_thousand_steps() -> None:
    assert run_machine(1000, derandomize=True) > 500
