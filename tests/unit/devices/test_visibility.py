"""CUDA_VISIBLE_DEVICES, read as CUDA reads it."""

from __future__ import annotations

import pytest

from llcuda.devices import Gpu
from llcuda.devices.visibility import choose_visible

SMALL = Gpu(0, "GTX 1060", "GPU-aaaa1111-0000", "6.1", 6144)
LARGE = Gpu(1, "RTX 3090", "GPU-aaaa2222-0000", "8.6", 24576)
THIRD = Gpu(2, "RTX 3060", "GPU-bbbb3333-0000", "8.6", 12288)
ALL = (SMALL, LARGE, THIRD)


@pytest.mark.parametrize(
    ("value", "order", "visible"),
    [
        (None, "", [0, 1, 2]),
        (None, "PCI_BUS_ID", [0, 1, 2]),
        ("0,1,2", "PCI_BUS_ID", [0, 1, 2]),
        ("2,0", "PCI_BUS_ID", [2, 0]),
        (" 2 , 0 ", "PCI_BUS_ID", [2, 0]),
        # CUDA's own order puts the fastest first
        ("0", "", [1]),
        ("1,2", "", [0, 2]),
        ("0", "FASTEST_FIRST", [1]),
        # the first entry that is none ends the list
        ("0,7,1", "PCI_BUS_ID", [0]),
        ("0,-1,1", "PCI_BUS_ID", [0]),
        ("0,,1", "PCI_BUS_ID", [0]),
        ("0,GPU-ffff,1", "PCI_BUS_ID", [0]),
        ("0,x,1", "PCI_BUS_ID", [0]),
        ("7", "PCI_BUS_ID", []),
        ("", "", []),
        ("-1", "", []),
        ("NoDevFiles", "", []),
        ("none", "", []),
        # beginnings of UUIDs, if they fit one GPU
        ("GPU-bbbb", "", [2]),
        ("GPU-BBBB3333-0000", "", [2]),
        ("GPU-aaaa", "", []),
        ("GPU-bbbb,GPU-aaaa2,GPU-aaaa1", "", [2, 1, 0]),
        ("GPU-bbbb,0", "PCI_BUS_ID", [2, 0]),
        # twice the same is nothing
        ("1,1", "PCI_BUS_ID", []),
        ("GPU-bbbb,GPU-bbbb3", "", []),
    ],
)
def test_the_visible_gpus_are_those_that_cuda_sees(value: str | None, order: str, visible: list[int]) -> None:
    assert [gpu.index for gpu in choose_visible(ALL, value, order=order)[0]] == visible


def test_a_number_among_unlike_gpus_is_a_guess_and_says_so() -> None:
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in choose_visible(ALL, "0")[1]
    assert choose_visible(ALL, "0", order="PCI_BUS_ID")[1] == ""
    assert choose_visible(ALL, "GPU-bbbb")[1] == ""
    assert choose_visible(ALL, None)[1] == ""


def test_a_number_among_like_gpus_leaves_no_doubt() -> None:
    twins = tuple(Gpu(index, "Tesla T4", f"GPU-{index}", "7.5", 15360) for index in range(3))
    gpus, remark = choose_visible(twins, "2,0")
    assert [gpu.index for gpu in gpus] == [2, 0]
    assert remark == ""


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("", 'CUDA_VISIBLE_DEVICES="" hides every GPU.'),
        ("0,9", "CUDA_VISIBLE_DEVICES=0,9 ends at 9, which is none of the 3 GPUs here."),
        ("0,,1", "ends at an empty entry"),
        ("1,1", "names one GPU twice"),
    ],
)
def test_what_cuts_the_list_short_is_said(value: str, says: str) -> None:
    assert says in choose_visible(ALL, value, order="PCI_BUS_ID")[1]


PARTS = (
    Gpu(0, "A100 MIG 3g.20gb", "MIG-1111", "8.0", 19968, mig_profile="3g.20gb"),
    Gpu(0, "A100 MIG 1g.5gb", "MIG-2222", "8.0", 4864, mig_profile="1g.5gb"),
    Gpu(1, "A100", "GPU-3333", "8.0", 40960),
)


def test_slices_are_named_by_uuid() -> None:
    assert choose_visible(PARTS, "MIG-2222")[0] == (PARTS[1],)


def test_the_number_of_a_gpu_in_slices_is_its_first_slice() -> None:
    assert choose_visible(PARTS, "0", order="PCI_BUS_ID")[0] == (PARTS[0],)
    assert choose_visible(PARTS, "1", order="PCI_BUS_ID")[0] == (PARTS[2],)
