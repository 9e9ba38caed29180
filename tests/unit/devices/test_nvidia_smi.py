"""What nvidia-smi prints, in order and out of it."""

from __future__ import annotations

import pytest

from llcuda.devices.inventory import Gpu, Situation
from llcuda.devices.nvidia_smi import Output, classify_output, parse_nvidia_smi
from tests.places import DATA

DEVICES = DATA / "devices"
T4 = "0, Tesla T4, GPU-f4b1, 7.5, 15360, 14910, 535.104.05\n"


def read(name: str) -> str:
    return (DEVICES / name).read_text(encoding="utf-8")


def test_a_gpu_is_read_with_its_driver() -> None:
    found = parse_nvidia_smi(T4, header=read("t4_header.txt"))
    assert found.gpus == (Gpu(0, "Tesla T4", "GPU-f4b1", "7.5", 15360, 14910),)
    assert (found.driver, found.cuda) == ("535.104.05", "12.2")


def test_the_header_of_a_driver_from_610_on_is_read() -> None:
    found = parse_nvidia_smi("", header=read("b200_header_610.txt"))
    assert (found.driver, found.cuda) == ("610.43.02", "13.3")


def test_slices_take_the_place_of_their_gpu() -> None:
    found = parse_nvidia_smi(read("mig_query.csv"), header=read("mig_header.txt"), listing=read("mig_list.txt"))
    assert [(gpu.index, gpu.name, gpu.uuid, gpu.capability) for gpu in found.gpus] == [
        (0, "NVIDIA A100-SXM4-40GB", "GPU-00000000-aaaa", "8.0"),
        (1, "NVIDIA A100-SXM4-40GB MIG 3g.20gb", "MIG-11111111-aaaa", "8.0"),
        (1, "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "MIG-22222222-aaaa", "8.0"),
    ]
    whole, large, small = found.gpus
    assert (whole.mig_profile, large.mig_profile, small.mig_profile) == (None, "3g.20gb", "1g.5gb")
    assert (large.memory_total_mib, large.memory_free_mib) == (19968, 5602)
    assert (small.memory_total_mib, small.memory_free_mib) == (4864, 4851)


def test_a_gpu_in_mig_mode_without_slices_is_no_gpu() -> None:
    found = parse_nvidia_smi(read("mig_query.csv"), header=read("mig_header.txt"), listing="")
    assert [gpu.index for gpu in found.gpus] == [0]
    assert found.empty_mig == ("NVIDIA A100-SXM4-40GB",)


@pytest.mark.parametrize(
    ("line", "total", "free"),
    [
        ("0, NVIDIA GB10, GPU-1, 12.1, [N/A], [N/A], 580.95.05", 0, None),
        ("0, NVIDIA GB10, GPU-1, 12.1, [Not Supported], [Not Supported], 580.95.05", 0, None),
        ("0, Tesla T4, GPU-1, 7.5, 15360, [Insufficient Permissions], 550.54", 15360, None),
        ("0, Tesla T4, GPU-1, 7.5, 15360, [Unknown Error], 550.54", 15360, None),
        ("0, Tesla T4, GPU-1, 7.5, -1, 12 MiB, 550.54", 0, None),
    ],
)
def test_a_cell_that_is_no_number_is_unknown(line: str, total: int, free: int | None) -> None:
    (gpu,) = parse_nvidia_smi(f"{line}\n").gpus
    assert (gpu.memory_total_mib, gpu.memory_free_mib) == (total, free)


def test_a_capability_that_is_none_is_empty() -> None:
    (gpu,) = parse_nvidia_smi("0, Tesla T4, GPU-1, [N/A], 15360, 15000, 550.54\n").gpus
    assert gpu.capability == ""


def test_a_name_with_a_comma_stays_whole() -> None:
    (gpu,) = parse_nvidia_smi("0, NVIDIA H100, 80GB, GPU-1, 9.0, 81559, 81000, 550.54\n").gpus
    assert gpu.name == "NVIDIA H100, 80GB"


@pytest.mark.parametrize("cut", range(len(T4)))
def test_a_row_that_was_cut_off_is_left_out(cut: int) -> None:
    found = parse_nvidia_smi(T4 + T4.replace("GPU-f4b1", "GPU-other")[:cut])
    assert [gpu.uuid for gpu in found.gpus] == ["GPU-f4b1"]


@pytest.mark.parametrize(
    "text",
    ["", "\n\n", "garbage\n", "\x00\xff\x7f\n", ",,,,,,\n", "a, b, GPU-1, 7.5, 1, 1, 550.54\n", "GPU-1, 1, 2, 3, 4\n"],
)
def test_garbage_is_no_gpu(text: str) -> None:
    assert parse_nvidia_smi(text, header=text, listing=text).gpus == ()


@pytest.mark.parametrize(
    ("status", "stdout", "stderr", "situation"),
    [
        (18, "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 550.120\n", "",
         Situation.DRIVER_MISMATCH),
        (9, ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest "
             "NVIDIA driver is installed and running.\n"), "", Situation.NO_DRIVER),
        (6, "No devices were found\n", "", Situation.NO_DEVICES),
        (0, "No devices were found\n", "", Situation.NO_DEVICES),
        (4, "Failed to initialize NVML: Insufficient Permissions\n", "", Situation.PERMISSION),
        (15, ("Unable to determine the device handle for GPU0000:01:00.0: GPU is lost.  Reboot the system to recover "
              "this GPU\n"), "", Situation.GPU_LOST),
        (15, "Unable to determine the device handle for GPU 0000:01:00.0: Unknown Error\n", "", Situation.GPU_LOST),
        (17, "Failed to initialize NVML: GPU access blocked by the operating system\n", "", Situation.WSL_NO_GPU),
        (255, "Failed to initialize NVML: Unknown Error\n", "", Situation.UNKNOWN),
        (1, "", "segmentation fault\n", Situation.UNKNOWN),
        (None, "", "nvidia-smi gave no answer within 5 seconds", Situation.TIMEOUT),
    ],
)  # fmt: skip
def test_a_failure_is_recognised_by_its_words(
    status: int | None, stdout: str, *, stderr: str, situation: Situation
) -> None:
    failure = classify_output(Output(status, stdout, stderr))
    assert failure
    assert failure.situation is situation
    assert failure.text


def test_one_lost_gpu_does_not_hide_the_others() -> None:
    lost = "Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost."
    assert classify_output(Output(15, f"{T4}{lost}\n")) is None
    found = parse_nvidia_smi(f"{T4}{lost}\n")
    assert len(found.gpus) == 1
    assert found.lost == (lost,)


def test_a_good_answer_is_no_failure() -> None:
    assert classify_output(Output(0, T4)) is None
