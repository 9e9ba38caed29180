"""The gauges of the GPUs with a stand-in for the driver: an NVML compiled here."""

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
from llcuda.gateway.observe.gpu_metrics import GpuMetrics
from tests.places import ROOT
from tests.process.devices.test_detection import T4, compile_nvml, set_driver
from tests.processes import PATIENCE, wait_until
from tests.standins.fake_machine import LIBCUDA, NVML, build_machine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from llcuda.devices.machine import Machine

FACTS: dict[str, Any] = {"cards": "nvidia/nvidia", "nodes": "nvidia0 nvidiactl", "driver": "550.120"}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_nvml(tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1")


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    wait_until(lambda: not [one for one in threading.enumerate() if one.name.startswith(("llcuda-nv", "llcuda-gpu"))])


def machine_with(library: Path, root: Path) -> Machine:
    machine = build_machine(root, libraries=f"{LIBCUDA} {NVML}", environ={}, **FACTS)
    shutil.copy(library, machine.path(NVML))
    return machine


def read_page(gauges: GpuMetrics) -> dict[str, float]:
    return {name: value for name, _, _, value in gauges.read()}


def test_nvml_is_asked(tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_driver(monkeypatch, T4, "Tesla P4|6.1|7680|-1", LOAD=25)
    gauges = GpuMetrics(machine_with(library, tmp_path))
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


def test_the_names_are_documented(tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_driver(monkeypatch, T4, LOAD=37)
    gauges = GpuMetrics(machine_with(library, tmp_path))
    gauges.start()
    try:
        wait_until(lambda: read_page(gauges))
        names = set(read_page(gauges))
    finally:
        gauges.stop()
    text = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(llcuda_gpu_\w+)` \| gauge \|([^|]*)\|", text, re.MULTILINE))
    assert set(rows) == names
    assert set(rows.values()) == {" `gpu`, `name`, `uuid` "}


def test_a_driver_that_hangs_keeps_nobody_waiting(
    tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, over = threading.Event(), threading.Event()

    def hang(*_: object, **__: object) -> Failure:
        asked.set()
        over.wait()
        return Failure(Situation.TIMEOUT, "it hangs")

    monkeypatch.setattr(gpu_metrics, "read_usage", hang)
    gauges = GpuMetrics(machine_with(library, tmp_path))
    gauges.start()
    assert asked.wait(PATIENCE)
    assert read_page(gauges) == {}
    over.set()
    gauges.stop()


def test_without_a_driver_nothing_is_ever_started(tmp_path: Path) -> None:
    gauges = GpuMetrics(build_machine(tmp_path / "root", environ={}))
    gauges.start()
    assert read_page(gauges) == {}
    assert not [one for one in threading.enumerate() if one.name == "llcuda-gpu-metrics"]
    gauges.stop()


def test_who_reads_nothing_has_nothing_asked(tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    set_driver(monkeypatch, T4, LOG=log)
    monkeypatch.setattr(gpu_metrics, "INTERVAL", 0.05)
    monkeypatch.setattr(gpu_metrics, "_INTEREST", 0.0)
    gauges = GpuMetrics(machine_with(library, tmp_path / "root"))
    gauges.start()
    try:
        wait_until(lambda: log.exists() and log.read_text())
        time.sleep(0.5)
        assert log.read_text().split() == ["init", "shutdown"]
        assert read_page(gauges)
        wait_until(lambda: log.read_text().split() == ["init", "shutdown"] * 2)
    finally:
        gauges.stop()
