"""The gauges of the GPUs with stand-ins for the driver: an NVML compiled here, and a program in nvidia-smi's place."""

from __future__ import annotations

import re
import shutil
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from llcuda.devices import Situation
from llcuda.devices.inventory import Failure
from llcuda.gateway.observe import gpu_metrics
from llcuda.gateway.observe.gateway_metrics import GatewayMetrics
from llcuda.gateway.observe.gpu_metrics import GpuMetrics
from tests.places import ROOT
from tests.process.devices.test_detection import T4, compile_nvml, set_driver
from tests.processes import PATIENCE, is_alive, wait_until
from tests.standins import fake_nvidia_smi
from tests.standins.fake_machine import LIBCUDA, NVIDIA_SMI, NVML, build_machine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from llcuda.devices.machine import Machine

ROW = "0, Tesla T4, GPU-f4b1, 449, 15360, 37, 52\n"
FACTS: dict[str, Any] = {"cards": "nvidia/nvidia", "nodes": "nvidia0 nvidiactl", "driver": "550.120"}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_nvml(tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1")


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    wait_until(lambda: not [one for one in threading.enumerate() if one.name.startswith(("llcuda-nv", "llcuda-gpu"))])


def machine_with_smi(tmp_path: Path, **environ: str) -> Machine:
    said = {"FAKE_SMI_FOLDER": str(tmp_path), "FAKE_SMI_LOG": str(tmp_path / "smi.log"), "PATH": "/usr/bin", **environ}
    machine = build_machine(tmp_path / "root", libraries=LIBCUDA, environ=said, **FACTS)
    fake_nvidia_smi.install(machine.path(NVIDIA_SMI))
    (tmp_path / "query.csv").write_text(ROW)
    return machine


def read_page(gauges: GpuMetrics) -> dict[str, float]:
    return {name: value for name, _, _, value in gauges.read()}


def test_nvml_is_asked(tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_driver(monkeypatch, T4, "Tesla P4|6.1|7680|-1", LOAD=25)
    machine = build_machine(tmp_path / "root", libraries=f"{LIBCUDA} {NVML}", environ={}, **FACTS)
    shutil.copy(library, machine.path(NVML))
    gauges = GpuMetrics(machine)
    gauges.start()
    try:
        wait_until(lambda: read_page(gauges))
        found = [(name, labels["gpu"], value) for name, _, labels, value in gauges.read()]
        assert ("llcuda_gpu_memory_used_bytes", "1", 100 << 20) in found
        assert ("llcuda_gpu_memory_total_bytes", "0", 15360 << 20) in found
        assert ("llcuda_gpu_utilization_ratio", "0", 0.25) in found
        assert ("llcuda_gpu_temperature_celsius", "1", 41.0) in found
    finally:
        gauges.stop()


def test_without_nvml_nvidia_smi_is_asked_and_the_names_are_documented(tmp_path: Path) -> None:
    metrics, gauges = GatewayMetrics(), GpuMetrics(machine_with_smi(tmp_path))
    metrics.add_gauges(gauges.read)
    gauges.start()
    try:
        wait_until(lambda: read_page(gauges))
        assert read_page(gauges)["llcuda_gpu_utilization_ratio"] == 0.37
        names = set(read_page(gauges))
    finally:
        gauges.stop()
    text = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(llcuda_gpu_\w+)` \| gauge \|([^|]*)\|", text, re.MULTILINE))
    assert set(rows) == names
    assert set(rows.values()) == {" `gpu`, `name`, `uuid` "}


def test_a_driver_that_hangs_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, over = threading.Event(), threading.Event()

    def hang(*_: object, **__: object) -> Failure:
        asked.set()
        over.wait()
        return Failure(Situation.TIMEOUT, "it hangs")

    monkeypatch.setattr(gpu_metrics, "read_usage", hang)
    gauges = GpuMetrics(machine_with_smi(tmp_path))
    gauges.start()
    assert asked.wait(PATIENCE)
    assert read_page(gauges) == {}
    over.set()
    gauges.stop()


def test_an_nvidia_smi_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_metrics, "_TIMEOUT", 3.0)
    gauges = GpuMetrics(machine_with_smi(tmp_path, FAKE_SMI_FAULT="hang"))
    log = tmp_path / "smi.log"
    gauges.start()
    wait_until(lambda: log.exists() and "child" in log.read_text())
    gauges.stop()
    (child,) = re.findall(r"child (\d+)", log.read_text())
    wait_until(lambda: not is_alive(int(child)))


def test_without_a_driver_nothing_is_ever_started(tmp_path: Path) -> None:
    machine = build_machine(tmp_path / "root", environ={"PATH": "/usr/bin"})
    fake_nvidia_smi.install(machine.path(NVIDIA_SMI))
    gauges = GpuMetrics(machine)
    gauges.start()
    assert read_page(gauges) == {}
    assert not [one for one in threading.enumerate() if one.name == "llcuda-gpu-metrics"]
    gauges.stop()


def test_who_reads_nothing_has_nothing_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_metrics, "INTERVAL", 0.05)
    monkeypatch.setattr(gpu_metrics, "_INTEREST", 0.0)
    gauges, log = GpuMetrics(machine_with_smi(tmp_path)), tmp_path / "smi.log"
    gauges.start()
    try:
        wait_until(lambda: log.exists() and log.read_text())
        time.sleep(0.5)
        assert len(log.read_text().splitlines()) == 1
        assert read_page(gauges)
        wait_until(lambda: len(log.read_text().splitlines()) == 2)
    finally:
        gauges.stop()
