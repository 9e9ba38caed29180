"""The memory and the load of the GPUs among the metrics: asked for by a thread, while anybody reads them."""

from __future__ import annotations

import threading
from logging import getLogger
from time import monotonic
from typing import TYPE_CHECKING

from llcuda.devices.detection import has_driver, read_usage
from llcuda.devices.inventory import Failure
from llcuda.devices.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llcuda.devices.inventory import GpuUsage

__all__ = ["GpuMetrics", "choose_pause"]

INTERVAL = 5.0
"""Seconds between two looks, while somebody reads the metrics."""
_LONGEST_INTERVAL = 300.0
_TIMEOUT = 3.0
_INTEREST = 60.0
"""Seconds after a reading for which the next one is expected; without one, the driver is left in peace."""
_LIFETIME = 30.0
"""Seconds after which a figure is too old to be shown."""
_FIGURES = (
    ("llcuda_gpu_memory_used_bytes", "Memory of the GPU that is in use.", "memory_used_bytes"),
    ("llcuda_gpu_memory_total_bytes", "Memory of the GPU.", "memory_total_bytes"),
    ("llcuda_gpu_utilization_ratio", "Share of the time in which the GPU computed, 0 to 1.", "utilization"),
    ("llcuda_gpu_temperature_celsius", "Temperature of the GPU.", "temperature_celsius"),
)


class GpuMetrics:
    """Looks at the GPUs of this machine every few seconds; without a driver, it never does.

    A driver that hangs keeps its thread and nothing else: figures that are too old are not shown.
    """

    def __init__(self, machine: Machine | None = None) -> None:
        self._machine = machine or Machine()
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self._asked = threading.Event()
        self._asked_at = 0.0
        self._usages: tuple[GpuUsage, ...] = ()
        self._looked_at = 0.0

    def start(self) -> None:
        """Look for the first time, if there is a driver to ask."""
        if has_driver(self._machine):
            self._note_interest()
            self._thread = threading.Thread(target=self._run, name="llcuda-gpu-metrics", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Look no more, and return when the last look is over; it takes a few seconds if the driver hangs."""
        self._stopped.set()
        self._asked.set()
        if self._thread is not None:
            self._thread.join(2 * _TIMEOUT)

    def read(self) -> Iterable[tuple[str, str, Mapping[str, str], float]]:
        """Return the figures as (name, help, labels, value); nothing is waited for."""
        self._note_interest()
        usages = self._usages if monotonic() - self._looked_at < _LIFETIME else ()
        for name, text, attribute in _FIGURES:
            for usage in usages:
                value = getattr(usage, attribute)
                if value is not None:
                    yield name, text, {"gpu": str(usage.index), "name": usage.name, "uuid": usage.uuid}, value

    def _note_interest(self) -> None:
        self._asked_at = monotonic()
        self._asked.set()

    def _run(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            answer = read_usage(self._machine, timeout=_TIMEOUT)
            if isinstance(answer, Failure):
                failures += 1
                if failures == 1:
                    getLogger("llcuda.gateway").warning("the GPUs' figures cannot be read: %s", answer.text)
            else:
                failures, self._usages, self._looked_at = 0, answer, monotonic()
            self._stopped.wait(choose_pause(failures))
            self._await_interest()

    def _await_interest(self) -> None:
        if monotonic() - self._asked_at > _INTEREST:
            self._asked.clear()
            if not self._stopped.is_set():  # it is set before the other one, which may just have been cleared
                self._asked.wait()


def choose_pause(failures: int) -> float:
    """Return the seconds until the next look, after so many failures in a row."""
    return min(INTERVAL * 2.0 ** min(failures, 10), _LONGEST_INTERVAL)
