"""Wait for a GPU's memory to come back: the driver takes a moment to free what a process held that has just ended."""

from __future__ import annotations

from time import monotonic, sleep
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from llcuda.devices import Gpu
    from llcuda.engine.placement import Placement

__all__ = ["settle", "wait_for_memory"]

_TIMEOUT = 2.0
_INTERVAL = 0.05


def settle(placement: Placement) -> None:
    """Let the driver free what a server that has just ended held, or the next would find less than there is."""
    if placement.choice.gpus:
        wait_for_memory(lambda: _read_free(placement.choice.gpus))


def wait_for_memory(read_free: Callable[[], tuple[int | None, ...]], *, timeout: float = _TIMEOUT) -> None:
    """Return when ``read_free`` (MiB, one for each GPU) says the same twice, at most ``timeout`` seconds later.

    Nothing is waited for where it is not known how much is free.
    """
    deadline = monotonic() + timeout
    before = read_free()
    while None not in before and before and monotonic() < deadline:
        sleep(_INTERVAL)
        now = read_free()
        if now == before:
            return
        before = now


def _read_free(gpus: tuple[Gpu, ...]) -> tuple[int | None, ...]:
    from llcuda.devices import find_devices  # noqa: PLC0415 - only if there is a GPU to wait for

    free = {gpu.uuid: gpu.memory_free_mib for gpu in find_devices(refresh=True).gpus}
    return tuple(free.get(gpu.uuid) for gpu in gpus)
