"""Start llama-server, and where memory runs out, again with less: one step of the ladder after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llcuda.engine.ladder import Rung, list_rungs
from llcuda.engine.margin import choose_fit_target
from llcuda.engine.settle import wait_for_memory
from llcuda.errors import OutOfMemoryError, UsageError
from llcuda.gguf import can_quantise_cache

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llcuda.devices import Gpu
    from llcuda.engine.placement import Placement
    from llcuda.models import ModelFile
    from llcuda.server import ServerManager

__all__ = ["Started", "check_fallback", "settle", "start_with_less"]

_FALLBACKS = ("auto", "error")


@dataclass(frozen=True, slots=True)
class Started:
    """What runs: where, and after which steps down."""

    placement: Placement
    steps: tuple[str, ...] = ()


def check_fallback(fallback: str) -> None:
    """Raise UsageError for what is neither ``auto`` nor ``error``."""
    if fallback not in _FALLBACKS:
        raise UsageError(f"fallback={fallback!r} is unknown", hint='Use "auto" or "error".')


def start_with_less(
    server: ServerManager, model: ModelFile, placement: Placement, *, options: Mapping[str, Any], fallback: str
) -> Started:
    """Start ``server`` with the model, and return where it runs and what was done without.

    ``fallback`` is ``auto``, or ``error``, which takes no step. Raises what start_server raises, and where every step
    ran out of memory, the OutOfMemoryError of the last with what was tried in its hint.
    """
    started, current = Started(placement), {"fit_target": choose_fit_target(placement.choice.gpus), **options}
    rungs = list(_list_rungs(model, placement, options) if fallback == "auto" else ())
    while True:
        place = started.placement
        try:
            server.start_server(model.path, backend=place.backend, visible_devices=place.visible_devices, **current)
        except OutOfMemoryError as error:
            if not rungs:
                raise _with_steps(error, started.steps) from error
            rung = rungs.pop(0)
            started = _step_down(started, rung, error)
            current = {**(options if rung.on_cpu else current), **rung.options}
            settle(place)
        else:
            return started


def _list_rungs(model: ModelFile, placement: Placement, options: Mapping[str, Any]) -> tuple[Rung, ...]:
    return list_rungs(
        options,
        layers=model.info.layers,
        context=model.info.context_length,
        on_gpu=placement.backend is not None,
        may_use_cpu=not placement.required,
        may_quantise=can_quantise_cache(model.info),
    )


def _step_down(started: Started, rung: Rung, error: OutOfMemoryError) -> Started:
    from logging import getLogger  # noqa: PLC0415 - kept out of the import

    getLogger("llcuda").warning("%s. Trying again: %s.", error.message, rung.sentence)
    if rung.on_cpu:
        return Started(started.placement.on_cpu(), (rung.sentence,))
    return Started(started.placement, (*started.steps, rung.sentence))


def _with_steps(error: OutOfMemoryError, steps: tuple[str, ...]) -> OutOfMemoryError:
    if steps:
        error.hint = f"Tried without success: {'; '.join(steps)}. {error.hint}"
    return error


def settle(placement: Placement) -> None:
    """Let the driver free what a server that has just ended held, or the next would find less than there is."""
    if placement.choice.gpus:
        wait_for_memory(lambda: _read_free(placement.choice.gpus))


def _read_free(gpus: tuple[Gpu, ...]) -> tuple[int | None, ...]:
    from llcuda.devices import find_devices  # noqa: PLC0415 - only where a load has failed

    free = {gpu.uuid: gpu.memory_free_mib for gpu in find_devices(refresh=True).gpus}
    return tuple(free.get(gpu.uuid) for gpu in gpus)
