"""What the GPUs do now, from recorded answers of nvidia-smi."""

from __future__ import annotations

import pytest

from llcuda.devices.inventory import GpuUsage
from llcuda.devices.nvidia_smi import parse_usage
from llcuda.gateway.observe.gpu_metrics import INTERVAL, choose_pause

# --query-gpu=index,name,uuid,memory.used,memory.total,utilization.gpu,temperature.gpu --format=csv,noheader,nounits
T4 = "0, Tesla T4, GPU-f4b1, 449, 15360, 37, 52\n"


def test_a_row_is_one_gpu() -> None:
    mib = 1 << 20
    assert parse_usage(T4) == (GpuUsage(0, "Tesla T4", "GPU-f4b1", 449 * mib, 15360 * mib, 0.37, 52.0),)


def test_what_a_driver_does_not_say_is_none() -> None:
    (usage,) = parse_usage("1, NVIDIA GB10, GPU-1, [N/A], [Not Supported], [N/A], [Unknown Error]\n")
    assert (usage.memory_used_bytes, usage.memory_total_bytes) == (None, None)
    assert (usage.utilization, usage.temperature_celsius) == (None, None)


def test_a_name_may_have_a_comma() -> None:
    (usage,) = parse_usage("0, GPU, of a kind, GPU-1, 1, 2, 3, 4\n")
    assert (usage.name, usage.utilization) == ("GPU, of a kind", 0.03)


@pytest.mark.parametrize(
    "text",
    ["", "\n", "No devices were found\n", "0, T4, GPU-1, 1, 2, 3\n", "x, T4, GPU-1, 1, 2, 3, 4\n", "GPU-1\n"],
)
def test_what_is_no_row_is_left_out(text: str) -> None:
    assert parse_usage(text) == ()
    assert len(parse_usage(T4 + text)) == 1


def test_failures_are_tried_again_later_and_later() -> None:
    pauses = [choose_pause(failures) for failures in range(2000)]
    assert pauses[0] == INTERVAL
    assert pauses == sorted(pauses)
    assert pauses[-1] == 300
