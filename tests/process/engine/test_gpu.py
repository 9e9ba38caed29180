"""GPUs that are not there: the real llama-server with the stand-in backend of tests/standins/fake_gpu.c."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

import llcuda
from llcuda.engine import placement as placements
from llcuda.errors import NoDeviceError, UsageError
from llcuda.fleet.fleet import Fleet
from llcuda.gateway import GatewayConfig, KeyConfig, ModelConfig
from llcuda.gateway.gateway import Gateway
from llcuda.server.offload import Buffer, read_offload
from tests.made_models.sparse_model import Sparse, write_sparse_model
from tests.process.gateway.clients.gateways import KEY
from tests.standins.fake_t4 import BACKEND, T4, devices

if TYPE_CHECKING:
    from collections.abc import Callable

    from llcuda.devices import Devices, Gpu
    from llcuda.engine import DeviceReport

SECOND = dataclasses.replace(T4, index=1, uuid="GPU-second")


@pytest.fixture
def machine(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give the engine these GPUs, each with so many MiB, and one of the compiled backends."""

    def set_machine(*gpus: Gpu, memory_mib: int | tuple[int, ...] = 4096, backend: str = "fake") -> None:
        bundled = dataclasses.replace(BACKEND, library=compiled / backend / "libggml-cuda.so")
        monkeypatch.setattr(placements, "find_devices", lambda **_: devices(*gpus))
        monkeypatch.setattr(placements, "find_backends", lambda: (bundled,))
        each = (memory_mib,) * len(gpus) if isinstance(memory_mib, int) else memory_mib
        monkeypatch.setenv("GGML_FAKE_GPU", ",".join(map(str, each)))

    return set_machine


def child_environment(engine: llcuda.InferenceEngine) -> dict[str, str]:
    entries = Path(f"/proc/{engine._server.server_pid}/environ").read_bytes().decode().split("\0")
    return dict(entry.split("=", 1) for entry in entries if entry)


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_model_that_fits_is_on_the_gpu_and_the_report_proves_it(machine: Callable[..., None], device: str) -> None:
    machine(T4)
    with llcuda.InferenceEngine() as engine:
        engine.load_model("demo", device=device)
        report, environment = engine.device_report, child_environment(engine)
        assert engine.infer("What is 2+2?", temperature=0).text == "2 + 2 = 4."
    assert report is not None
    assert (report.device, report.backend, report.offload) == ("cuda", "cuda12", "full")
    assert report.layers_on_gpu == report.layers == 4
    gpu = report.devices[0]
    assert (gpu.device, gpu.name, gpu.uuid) == ("CUDA0", "Tesla T4", "GPU-t4")
    assert min(gpu.weights_bytes, gpu.kv_bytes, gpu.compute_bytes) > 0
    assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-t4"
    assert environment["GGML_BACKEND_PATH"].endswith("/fake/libggml-cuda.so")


def test_the_second_gpu_is_the_only_one_that_its_server_sees(machine: Callable[..., None]) -> None:
    machine(T4, SECOND)
    with llcuda.InferenceEngine() as engine:
        engine.load_model("demo", device="cuda:1")
        assert child_environment(engine)["CUDA_VISIBLE_DEVICES"] == "GPU-second"
        assert engine.device_report is not None
        assert engine.device_report.devices[0].uuid == "GPU-second"


def test_a_second_load_waits_until_the_memory_of_the_first_has_come_back(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(T4)
    free = iter([5_000, 9_000, 15_000, 15_000, 1])

    def find(*, refresh: bool = False) -> Devices:
        return devices(dataclasses.replace(T4, memory_free_mib=next(free)) if refresh else T4)

    monkeypatch.setattr(placements, "find_devices", find)
    with llcuda.InferenceEngine() as engine:
        engine.load_model("demo")
        engine.load_model("demo")
    assert next(free) == 1


def test_layers_that_were_asked_to_stay_are_a_partial_offload(machine: Callable[..., None]) -> None:
    machine(T4)
    with llcuda.InferenceEngine() as engine:
        engine.load_model("demo", device="cuda", gpu_layers=1)
        report = engine.device_report
    assert report is not None
    assert (report.device, report.offload) == ("cuda", "partial")
    assert report.limits
    assert {use.device for use in report.devices if use.weights_bytes} == {"CUDA0", "CPU"}


def draft_devices(engine: llcuda.InferenceEngine) -> set[str]:
    return {buffer.device for buffer in read_offload(engine._server.log).buffers if buffer.model == "draft"}


def test_a_draft_is_where_the_model_is(machine: Callable[..., None]) -> None:
    machine(T4)
    with llcuda.InferenceEngine() as engine:
        engine.load_model("demo", device="cuda", draft="auto")
        assert "CUDA0" in draft_devices(engine)
        engine.load_model("demo", device="cpu", draft="auto")
        assert draft_devices(engine)
        assert not any(Buffer(device, "weights", 1).on_gpu for device in draft_devices(engine))


@pytest.mark.parametrize("backend", ["no-driver", "undefined", "null"])
def test_a_backend_that_fails_is_an_error_where_the_gpu_is_required_and_nothing_is_left(
    machine: Callable[..., None], backend: str
) -> None:
    machine(T4, backend=backend)
    engine = llcuda.InferenceEngine()
    with pytest.raises(NoDeviceError, match="The GPU is not used") as caught:
        engine.load_model("demo", device="cuda")
    assert caught.value.log_tail
    assert caught.value.hint
    assert engine._server.state == "stopped"
    assert engine.device_report is None


def test_a_backend_that_fails_leaves_auto_on_the_cpu_with_the_reason(
    machine: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    machine(T4, backend="no-driver")
    with caplog.at_level(logging.INFO, logger="llcuda"), llcuda.InferenceEngine() as engine:
        engine.load_model("demo")
        report = engine.device_report
    assert report is not None
    assert (report.device, report.backend) == ("cpu", None)
    assert "libcuda.so.1" in report.reason
    (record,) = [record for record in caplog.records if record.name == "llcuda"]
    assert report.reason in record.getMessage()


def test_a_gpu_of_one_gibibyte_is_used(machine: Callable[..., None]) -> None:
    machine(dataclasses.replace(T4, name="GeForce 940M", memory_total_mib=1024), memory_mib=1024)
    with llcuda.InferenceEngine() as engine:
        engine.load_model("demo")
        report = engine.device_report
        assert engine._server.command[engine._server.command.index("--fit-target") + 1] == "128"
    assert report is not None
    assert (report.offload, report.steps) == ("full", ())


SIXTEEN = Sparse(layers=15, width=256, heads=4, kv_heads=4, hidden=512, vocabulary=512, context=2048)
"""With the output layer: layers enough to see a proportion by."""


@pytest.fixture(scope="module")
def layered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sparse_model(tmp_path_factory.mktemp("models") / "layered.gguf", SIXTEEN)


def load_layered(model: Path, **options: object) -> DeviceReport:
    with llcuda.InferenceEngine() as engine:
        engine.load_model(model, **options)  # type: ignore[arg-type]  # by name
        assert engine.device_report is not None
        return engine.device_report


def cached_layers(report: DeviceReport) -> dict[str, float]:
    """Return how many layers' KV cache each GPU has, by its UUID."""
    return {use.uuid: use.kv_bytes / KV_OF_A_LAYER for use in report.devices if use.uuid}


KV_OF_A_LAYER = 2048 * 2 * 2 * 256


@pytest.mark.parametrize(
    ("split", "layers"),
    [([3, 1], (12, 3)), ((1, 3), (4, 11)), ("1,1", (8, 7)), ("1/1", (8, 7)), ([1, 0], (15, 0)), (None, (8, 7))],
)
def test_the_layers_lie_in_the_proportion_that_was_asked_for(
    machine: Callable[..., None], layered: Path, *, split: object, layers: tuple[int, int]
) -> None:
    machine(T4, SECOND)
    report = load_layered(layered, tensor_split=split)
    assert report.offload == "full"
    first, second = layers
    assert cached_layers(report) == {"GPU-t4": first, "GPU-second": second} if second else {"GPU-t4": first}


def test_by_itself_llama_server_goes_by_free_memory(machine: Callable[..., None], layered: Path) -> None:
    machine(T4, SECOND, memory_mib=(6144, 2048))
    assert cached_layers(load_layered(layered)) == {"GPU-t4": 12, "GPU-second": 3}


def test_one_gpu_of_several_is_the_main_gpu_without_a_split(machine: Callable[..., None], layered: Path) -> None:
    machine(T4, SECOND)
    report = load_layered(layered, split_mode="none", main_gpu=1)
    assert cached_layers(report) == {"GPU-second": 15}


def test_every_matrix_can_be_shared_out(machine: Callable[..., None], layered: Path) -> None:
    machine(T4, SECOND)
    report = load_layered(layered, split_mode="tensor")
    assert (report.device, report.offload) == ("cuda", "full")


def test_where_auto_came_to_the_cpu_no_split_is_in_the_way(machine: Callable[..., None], layered: Path) -> None:
    machine()
    report = load_layered(layered, split_mode="tensor", tensor_split=[3, 1], main_gpu=1)
    assert report.device == "cpu"


@pytest.mark.parametrize(
    ("asked", "says", "remedy"),
    [
        ({"tensor_split": [1, 1, 1]}, "tensor_split is for 3 GPUs, and 2 are used with device='auto'", "gpu status"),
        ({"tensor_split": "3,1", "device": "cuda:1"}, "for 2 GPUs, and 1 is used", 'device="cuda"'),
        ({"main_gpu": 2, "split_mode": "none"}, "main_gpu is for 3 GPUs", "gpu status"),
        ({"main_gpu": -1}, "main_gpu=-1 is no GPU", 'device="cpu"'),
        ({"split_mode": "row"}, "no longer there", '"tensor"'),
        ({"split_mode": "layer", "main_gpu": 0, "device": "cpu"}, "split_mode shares", "split_mode and main_gpu out"),
        ({"tensor_split": [1, 1], "device": "cpu"}, "tensor_split shares", 'device="auto"'),
        ({"main_gpu": 0, "device": "cpu"}, "main_gpu shares", "Leave main_gpu out"),
    ],
)
def test_a_split_that_contradicts_the_gpus_is_an_error_before_the_model_is_looked_for(
    machine: Callable[..., None], *, asked: dict[str, object], says: str, remedy: str
) -> None:
    machine(T4, SECOND)
    with pytest.raises(UsageError, match=re.escape(says)) as caught:
        load_layered(Path("/nonesuch.gguf"), **asked)
    assert remedy in caught.value.hint


def test_the_workers_of_a_gateway_have_a_gpu_each_and_are_replaced_on_it(machine: Callable[..., None]) -> None:
    machine(T4, SECOND)
    config = ModelConfig("demo", "demo", workers=2, device="cuda")

    async def serve() -> list[DeviceReport | None]:
        fleet = Fleet(config)
        await fleet.start()
        await fleet.reload()
        reports = [replica.device_report for replica in fleet.replicas]
        await fleet.stop()
        return reports

    reports = asyncio.run(serve())
    assert [report and report.device for report in reports] == ["cuda", "cuda"]
    assert [report and report.devices[0].uuid for report in reports] == ["GPU-t4", "GPU-second"]
    assert all(report and "taken in turn" in report.reason for report in reports)


@pytest.mark.parametrize(("device", "named"), [("cuda", "Tesla T4"), ("cpu", None)])
def test_a_gateway_names_the_gpu_that_each_worker_runs_on(
    machine: Callable[..., None], device: str, named: str | None
) -> None:
    machine(T4)
    served = ModelConfig("demo", "demo", device=device)
    with Gateway(GatewayConfig(models=(served,), port=0, keys=(KeyConfig("client", KEY),))) as gateway:
        told = httpx.get(
            f"{gateway.url}/api/capabilities", headers={"Authorization": f"Bearer {KEY}"}, trust_env=False
        ).json()
    (worker,) = told["models"][0]["workers"]
    assert (worker["device"]["device"], worker["device"]["gpu"]) == (device, named)
