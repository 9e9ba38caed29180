"""Choosing a backend: what the user asks for, what is preferred, and how versions compare."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from llcuda.devices import Devices, Gpu, Situation, choose_backend, visible_devices
from llcuda.devices.backend_choice import _best, parse_version
from llcuda.errors import DriverTooOldError, NoDeviceError, UnsupportedDeviceError, UsageError
from llcuda.native import Backend

CUDA12 = Backend(
    name="cuda12",
    library=Path("/binaries/cuda12/libggml-cuda.so"),
    toolkit="12.9.86",
    architectures=("sm_61", "sm_75", "sm_86", "sm_90", "compute_90", "sm_120a"),
    driver_floor="550.54.14",
    compression="size",
    flash_attention=True,
    cuda_graphs=True,
    cublas="libcublas.so.12",
)
CUDA13 = replace(
    CUDA12, name="cuda13", toolkit="13.0.88", architectures=("sm_75", "sm_86", "compute_90"), driver_floor="580"
)


def gpu(index: int, capability: str, *, mig: str | None = None) -> Gpu:
    kind = "MIG" if mig else "GPU"
    return Gpu(index, f"card {index}", f"{kind}-{index}", capability, 8192, mig_profile=mig)


def devices(*gpus: Gpu, driver: str | None = "580.95.05", cuda: str | None = "13.0") -> Devices:
    return Devices(gpus, (), driver, cuda, "nvml", Situation.OK, "")


NOTHING = Devices((), (), None, None, "none", Situation.NO_NVIDIA, "This machine has no NVIDIA GPU.")


def test_the_newest_toolkit_is_taken_where_it_fits_as_well() -> None:
    machine = devices(gpu(0, "8.6"))
    for backends in ([CUDA12, CUDA13], [CUDA13, CUDA12]):
        assert choose_backend(machine, backends).backend is CUDA13


def test_the_backend_that_fits_more_gpus_is_taken() -> None:
    machine = devices(gpu(0, "8.6"), gpu(1, "6.1"))
    choice = choose_backend(machine, [CUDA13, CUDA12])
    assert choice.backend is CUDA12
    assert choice.gpus == machine.gpus


def test_machine_code_is_taken_before_ptx_of_a_newer_toolkit() -> None:
    assert choose_backend(devices(gpu(0, "12.0")), [CUDA13, CUDA12]).backend is CUDA12


def test_without_a_version_of_cuda_the_driver_decides_about_ptx() -> None:
    b200 = gpu(0, "10.0")
    assert choose_backend(devices(b200, driver="575.57", cuda=None), [CUDA12]).code == "ok"
    assert choose_backend(devices(b200, driver="570.86", cuda=None), [CUDA12]).code == "driver-too-old"


def test_ptx_of_a_toolkit_that_is_not_known_yet_needs_a_driver_that_says_it_runs_it() -> None:
    future = replace(CUDA13, toolkit="14.2.1")
    choice = choose_backend(devices(gpu(0, "10.0")), [future])
    assert choice.code == "driver-too-old"
    assert "the first of CUDA 14.2" in choice.sentence
    assert choose_backend(devices(gpu(0, "10.0"), driver="700.1", cuda="14.2"), [future]).code == "ok"


def test_a_driver_of_unknown_version_is_tried() -> None:
    assert choose_backend(devices(gpu(0, "8.6"), driver=None, cuda=None), [CUDA12]).code == "ok"


@pytest.mark.parametrize("number", [0, 1])
def test_a_number_names_a_visible_gpu(number: int) -> None:
    machine = devices(gpu(3, "8.6"), gpu(1, "7.5"))
    choice = choose_backend(machine, [CUDA13], device=f"cuda:{number}")
    assert choice.gpus == (machine.gpus[number],)
    assert visible_devices(choice) == machine.gpus[number].uuid


def test_a_number_that_names_no_gpu_says_which_there_are() -> None:
    choice = choose_backend(devices(gpu(0, "8.6")), [CUDA13], device="cuda:1")
    assert choice.code == "no-such-gpu"
    with pytest.raises(NoDeviceError, match="There is no cuda:1 here: cuda:0 is card 0"):
        choice.raise_for_device()


def test_a_number_that_names_a_gpu_which_does_not_fit_is_not_served_by_another_one() -> None:
    choice = choose_backend(devices(gpu(0, "8.6"), gpu(1, "6.1")), [CUDA13], device="cuda:1")
    assert choice.code == "capability-not-built"
    assert choice.capability == "6.1"


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:-1", "cuda:a", "CUDA", "", "cuda:0,1", "cpu:0"])
def test_a_device_of_another_form_is_a_usage_error(device: str) -> None:
    with pytest.raises(UsageError, match="device="):
        choose_backend(NOTHING, [], device=device)


def test_the_cpu_is_used_where_it_was_asked_for_whatever_there_is() -> None:
    choice = choose_backend(devices(gpu(0, "8.6")), [CUDA13], device="cpu")
    assert (choice.code, choice.backend, choice.remedy) == ("cpu-asked", None, "")
    assert visible_devices(choice) == "-1"
    assert "as was asked for" in str(choice.error())


def test_the_gpus_are_handed_on_by_uuid_and_in_order() -> None:
    choice = choose_backend(devices(gpu(1, "8.6"), gpu(0, "7.5")), [CUDA13])
    assert visible_devices(choice) == "GPU-1,GPU-0"
    choice.raise_for_device()


def test_one_slice_is_used_and_the_user_can_name_another() -> None:
    machine = devices(gpu(0, "9.0", mig="1g.18gb"), gpu(1, "9.0", mig="2g.35gb"))
    assert visible_devices(choose_backend(machine, [CUDA12])) == "MIG-0"
    assert visible_devices(choose_backend(machine, [CUDA12], device="cuda:1")) == "MIG-1"


def test_errors_carry_their_facts() -> None:
    old = choose_backend(devices(gpu(0, "8.6"), driver="545.29.06", cuda="12.3"), [CUDA12]).error()
    assert isinstance(old, DriverTooOldError)
    assert (old.driver, old.required) == ("545.29.06", "550.54.14")
    unknown = choose_backend(devices(gpu(0, "6.0")), [CUDA13, CUDA12]).error()
    assert isinstance(unknown, UnsupportedDeviceError)
    assert unknown.capability == "6.0"
    assert unknown.built_for == ("sm_75", "sm_86", "compute_90", "sm_61", "sm_90", "sm_120a")
    assert "from source" in unknown.hint
    ancient = choose_backend(devices(gpu(0, "3.5")), [CUDA12]).error()
    assert "too old for CUDA 12" in ancient.hint


def test_a_left_out_gpu_that_a_newer_driver_would_help_has_a_remedy() -> None:
    machine = devices(gpu(0, "10.0"), gpu(1, "9.0"), driver="570.1", cuda="12.8")
    assert "575" in choose_backend(machine, [CUDA12]).remedy
    assert choose_backend(devices(gpu(0, "6.0"), gpu(1, "9.0")), [CUDA12]).remedy == ""


@pytest.mark.parametrize(
    ("older", "newer"),
    [("550.54.14", "550.54.15"), ("550.54.14", "550.120"), ("99.1", "550.1"), ("580", "580.65.06"), ("12.9", "12.10")],
)
def test_versions_compare_as_numbers_part_by_part(older: str, newer: str) -> None:
    assert parse_version(older) < parse_version(newer)


@pytest.mark.parametrize(
    ("names", "kind", "capability", "best"),
    [
        ("sm_80 sm_86", "sm", (8, 9), "sm_86"),
        ("sm_80 sm_86", "sm", (8, 0), "sm_80"),
        ("sm_86", "sm", (8, 0), ""),
        ("sm_86", "sm", (9, 0), ""),
        ("sm_90a", "sm", (9, 0), "sm_90a"),
        ("sm_120a", "sm", (12, 1), ""),
        ("sm_120f", "sm", (12, 1), "sm_120f"),
        ("sm_100f", "sm", (12, 0), ""),
        ("compute_90", "compute", (8, 9), ""),
        ("compute_90", "compute", (12, 1), "compute_90"),
        ("compute_50 compute_90", "compute", (8, 9), "compute_50"),
        ("compute_90a", "compute", (10, 0), ""),
        ("compute_120f", "compute", (12, 1), "compute_120f"),
        ("compute_100f", "compute", (12, 1), ""),
        ("sm_next compute_", "sm", (9, 0), ""),
        ("sm_75", "sm", (), ""),
    ],
)
def test_an_architecture_runs_where_nvidia_says(
    names: str, kind: str, *, capability: tuple[int, ...], best: str
) -> None:
    assert _best(names.split(), kind, capability) == best


def test_nothing_is_chosen_that_does_not_run_and_everything_is_said() -> None:
    rng = random.Random(3)
    capabilities = ["", "3.5", "5.0", "6.0", "6.1", "7.0", "7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0", "12.1"]
    for _ in range(500):
        found = [gpu(index, rng.choice(capabilities)) for index in range(rng.randint(1, 4))]
        driver, cuda = rng.choice([("470.1", "11.4"), ("550.60", "12.4"), ("575.1", "12.9"), ("580.9", "13.0")])
        choice = choose_backend(devices(*found, driver=driver, cuda=cuda), rng.choice([[CUDA12], [CUDA13, CUDA12]]))
        assert choice.sentence.endswith(".")
        assert bool(choice.backend) == bool(choice.gpus) == (choice.code == "ok")
        if choice.backend:
            assert parse_version(driver) >= parse_version(choice.backend.driver_floor)
            assert list(choice.gpus) == [one for one in found if one in choice.gpus]
        else:
            assert choice.error().hint
