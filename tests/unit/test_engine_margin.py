"""How much of a small GPU is left free."""

from __future__ import annotations

import dataclasses

import pytest

from llcuda.engine.margin import choose_fit_target
from tests.unit.test_engine_devices import T4


@pytest.mark.parametrize(
    ("memory_mib", "expected"),
    [
        ((1024,), "128"),
        ((2048,), "256"),
        ((6144,), "768"),
        ((8192,), None),
        ((81559,), None),
        ((2048, 24576), "256,1024"),
        ((0,), None),
        ((), None),
    ],
)
def test_an_eighth_of_a_small_gpu_is_left_free_and_no_more_than_a_gibibyte(
    memory_mib: tuple[int, ...], expected: str | None
) -> None:
    gpus = [dataclasses.replace(T4, memory_total_mib=mib) for mib in memory_mib]
    assert choose_fit_target(gpus) == expected
