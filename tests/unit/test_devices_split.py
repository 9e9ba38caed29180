"""The split that is suggested for several GPUs, by the memory that is free on each."""

from __future__ import annotations

import pytest

from llcuda.devices import Gpu, suggest_tensor_split

GIB = 1024


def gpus(*free_mib: int | None) -> list[Gpu]:
    return [Gpu(place, "it", f"GPU-{place}", "8.6", 24 * GIB, free) for place, free in enumerate(free_mib)]


@pytest.mark.parametrize(
    ("free_mib", "split"),
    [
        ((24 * GIB, 24 * GIB), (50, 50)),
        ((24 * GIB, 8 * GIB), (75, 25)),
        ((8 * GIB, 24 * GIB), (25, 75)),
        ((24 * GIB, 24 * GIB, 24 * GIB), (33, 33, 33)),
        ((24 * GIB, 400), (98, 2)),
        ((24 * GIB, 100), (100, 0)),
        ((0, 8 * GIB), (0, 100)),
        ((8 * GIB, 8 * GIB, 8 * GIB, 8 * GIB, 16 * GIB, 16 * GIB), (12, 12, 12, 12, 25, 25)),
        ((24 * GIB,), None),
        ((), None),
        ((None, None), None),
        ((24 * GIB, None), None),
        ((0, 0), None),
    ],
)
def test_the_suggested_split(free_mib: tuple[int | None, ...], split: tuple[int, ...] | None) -> None:
    assert suggest_tensor_split(gpus(*free_mib)) == split
