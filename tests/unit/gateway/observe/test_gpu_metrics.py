"""When the driver is asked again."""

from __future__ import annotations

from llcuda.gateway.observe.gpu_metrics import INTERVAL, choose_pause


def test_failures_are_tried_again_later_and_later() -> None:
    pauses = [choose_pause(failures) for failures in range(2000)]
    assert pauses[0] == INTERVAL
    assert pauses == sorted(pauses)
    assert pauses[-1] == 300
