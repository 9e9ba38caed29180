"""What an engine chooses for the device that is asked for, and what it reports of what came of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llcuda.devices import Gpu
from llcuda.engine import placement as placements
from llcuda.engine.placement import Placement, choose_fit_target, choose_placement
from llcuda.engine.report import DeviceReport, check_report, make_report
from llcuda.errors import BinaryUnusableError, NoDeviceError, UsageError
from llcuda.server.offload import read_offload
from tests.standins.fake_t4 import BACKEND, T4, devices

if TYPE_CHECKING:
    from collections.abc import Callable

    from llcuda.native import Backend

OTHER = Gpu(index=1, name="GeForce GTX 1060", uuid="GPU-1060", capability="6.1", memory_total_mib=6144)
FULL = """\
0.00.120.000 I load_tensors: offloading 4 repeating layers to GPU
0.00.120.000 I load_tensors: offloaded 5/5 layers to GPU
0.00.120.000 I load_tensors:        CUDA0 model buffer size =    20.00 MiB
0.00.120.000 I load_tensors:   CPU_Mapped model buffer size =     1.00 MiB
0.00.130.000 I llama_context:  CUDA_Host  output buffer size =     0.50 MiB
0.00.130.000 I llama_kv_cache:      CUDA0 KV buffer size =     8.00 MiB
0.00.140.000 I sched_reserve:      CUDA0 compute buffer size =     4.00 MiB
0.00.140.000 I sched_reserve:  CUDA_Host compute buffer size =     0.25 MiB
"""
# What a backend that finds no device leaves: the line says that layers are on the GPU, the buffers that none is.
NOTHING = """\
0.00.010.000 E ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected
0.00.120.000 I load_tensors: offloaded 5/5 layers to GPU
0.00.120.000 I load_tensors:   CPU_Mapped model buffer size =    21.00 MiB
0.00.130.000 I llama_kv_cache:        CPU KV buffer size =     8.00 MiB
0.00.140.000 I sched_reserve:        CPU compute buffer size =     4.00 MiB
"""
MIB = 1 << 20


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give the engine a machine with these GPUs and backends, and the bundled llama-server."""

    def set_machine(*gpus: Gpu, backends: tuple[Backend, ...] = (BACKEND,), server: str = "/package/binaries") -> None:
        monkeypatch.setattr(placements, "find_devices", lambda: devices(*gpus))
        monkeypatch.setattr(placements, "find_backends", lambda: backends)
        monkeypatch.setattr(placements, "binaries_dir", lambda: Path("/package/binaries"))
        monkeypatch.setattr(placements, "find_executable", lambda _name: Path(server) / "llama-server")

    return set_machine


def test_a_gpu_that_fits_is_used_and_is_all_that_the_child_sees(machine: Callable[..., None]) -> None:
    machine(T4, OTHER)
    placement = choose_placement("auto", require_gpu=False)
    assert (placement.backend, placement.visible_devices) == (BACKEND, "GPU-t4")
    assert not placement.required


def test_without_a_gpu_auto_takes_the_cpu_and_hides_every_gpu(machine: Callable[..., None]) -> None:
    machine()
    placement = choose_placement("auto", require_gpu=False)
    assert (placement.backend, placement.visible_devices) == (None, "-1")


def test_a_damaged_backend_is_an_error_with_a_gpu_and_in_nobodys_way_without_one(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> tuple[Backend, ...]:
        raise BinaryUnusableError(BACKEND.library, "4 bytes, expected 20")

    machine()
    monkeypatch.setattr(placements, "find_backends", fail)
    assert choose_placement("auto", require_gpu=False).backend is None
    monkeypatch.setattr(placements, "find_devices", lambda: devices(T4))
    with pytest.raises(BinaryUnusableError, match="expected 20"):
        choose_placement("auto", require_gpu=False)


@pytest.mark.parametrize(("device", "require_gpu"), [("cuda", False), ("cuda:0", False), ("auto", True)])
def test_a_gpu_that_is_required_and_not_there_is_an_error_with_a_remedy(
    machine: Callable[..., None], device: str, *, require_gpu: bool
) -> None:
    machine()
    with pytest.raises(NoDeviceError, match="no NVIDIA GPU") as caught:
        choose_placement(device, require_gpu=require_gpu)
    assert 'device="cpu"' in caught.value.hint


def test_the_cpu_is_chosen_without_looking_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        pytest.fail("nobody asked for a GPU")

    for name in ("find_devices", "find_backends", "find_executable"):
        monkeypatch.setattr(placements, name, fail)
    placement = choose_placement("cpu", require_gpu=False)
    assert (placement.backend, placement.visible_devices) == (None, "-1")


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cuda:0,1", "", "CUDA", "cpu:0", "auto "])
def test_an_unknown_device_is_a_usage_error(machine: Callable[..., None], device: str) -> None:
    machine(T4)
    with pytest.raises(UsageError, match="is unknown"):
        choose_placement(device, require_gpu=False)


def test_contradictions_are_usage_errors(machine: Callable[..., None]) -> None:
    machine(T4)
    with pytest.raises(UsageError, match="contradict"):
        choose_placement("cpu", require_gpu=True)
    with pytest.raises(UsageError, match="gpu_layers=0"):
        choose_placement("cuda", require_gpu=False, gpu_layers=0)
    assert choose_placement("auto", require_gpu=False, gpu_layers=0).backend == BACKEND


def test_a_server_of_the_users_own_is_given_no_backend_and_keeps_its_devices(machine: Callable[..., None]) -> None:
    machine(T4, server="/elsewhere")
    placement = choose_placement("cuda", require_gpu=False)
    assert (placement.backend, placement.visible_devices) == (None, None)
    assert placement.required


def report(machine: Callable[..., None], log: str, *, device: str = "auto") -> tuple[Placement, DeviceReport]:
    machine(T4)
    placement = choose_placement(device, require_gpu=False)
    return placement, make_report(placement, read_offload(log.splitlines()))


def test_the_report_says_what_each_device_holds(machine: Callable[..., None]) -> None:
    _, made = report(machine, FULL)
    assert (made.asked, made.device, made.backend, made.offload) == ("auto", "cuda", "cuda12", "full")
    assert (made.layers, made.layers_on_gpu) == (5, 5)
    gpu, cpu = made.devices
    assert (gpu.device, gpu.name, gpu.uuid) == ("CUDA0", "Tesla T4", "GPU-t4")
    assert (gpu.weights_bytes, gpu.kv_bytes, gpu.compute_bytes) == (20 * MIB, 8 * MIB, 4 * MIB)
    assert gpu.total_bytes == 32 * MIB
    assert (cpu.device, cpu.name, cpu.uuid) == ("CPU", "", "")
    assert (cpu.weights_bytes, cpu.compute_bytes) == (1 * MIB, 0.75 * MIB)


def test_the_report_is_plain_data_and_a_few_lines(machine: Callable[..., None]) -> None:
    _, made = report(machine, FULL)
    assert json.loads(json.dumps(made.to_dict()))["devices"][0]["weights_bytes"] == 20 * MIB
    text = str(made)
    assert "5 of 5 layers on the GPU (full)" in text
    assert "CUDA0 (Tesla T4): weights 20.0 MiB, KV 8.0 MiB, compute 4.0 MiB" in text


def test_a_backend_that_put_nothing_on_the_gpu_is_no_gpu_whatever_its_log_claims(machine: Callable[..., None]) -> None:
    placement, made = report(machine, NOTHING)
    assert (made.device, made.backend, made.layers_on_gpu) == ("cpu", None, 0)
    assert "nothing is on it" in made.reason
    assert "no CUDA-capable device" in made.reason
    assert "llcuda doctor" in made.remedy
    check_report(made, required=placement.required, log_tail=())


def test_where_the_gpu_is_required_that_is_an_error_with_the_log(machine: Callable[..., None]) -> None:
    placement, made = report(machine, NOTHING, device="cuda")
    with pytest.raises(NoDeviceError, match="no CUDA-capable device") as caught:
        check_report(made, required=placement.required, log_tail=("last words",))
    assert caught.value.log_tail == ("last words",)
    assert "llcuda doctor" in caught.value.hint


def test_for_the_cpu_the_report_has_the_reason_and_no_limits(machine: Callable[..., None]) -> None:
    machine()
    made = make_report(choose_placement("auto", require_gpu=False), read_offload(NOTHING.splitlines()))
    assert (made.device, made.limits) == ("cpu", ())
    assert made.reason == "Using the CPU. This machine has no NVIDIA GPU."


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
