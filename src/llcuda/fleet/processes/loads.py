"""What each worker of a model is started with: the model, found once, and the place of each on the machine."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from llcuda.engine.load import Load, complete_options, require_whole_binaries
from llcuda.engine.placement import check_split, choose_placement
from llcuda.fleet.processes.machine_shares import choose_options, choose_places, keep_to_core, order_cores, turn
from llcuda.models import resolve_model
from llcuda.server.free_memory import limit_prompt_cache

if TYPE_CHECKING:
    from llcuda.engine.placement import Placement
    from llcuda.fleet.model_config import ModelConfig
    from llcuda.fleet.processes.machine_shares import Place
    from llcuda.models import ModelFile

__all__ = ["Share", "prepare_loads"]


class Share(NamedTuple):
    """What a model has of the machine beside others."""

    workers_before: int = 0
    """How many workers the models before it have: each model's are kept to other cores, as long as there are any."""
    workers_of_others: int = 0
    """How many have a part of the memory for old prompts besides its own."""


def prepare_loads(config: ModelConfig, share: Share = Share()) -> tuple[Load, ...]:  # noqa: B008 - it never changes
    """Return a load for each worker; the model is downloaded if it is not on this disk.

    Raises what :meth:`llcuda.InferenceEngine.load_model` raises before it starts anything.
    """
    options = {"cache_ram": limit_prompt_cache(config.workers + share.workers_of_others), **choose_options(config)}
    require_whole_binaries()
    placement = choose_placement(config.device, require_gpu=False, gpu_layers=config.gpu_layers)
    ordered = order_cores({core: _read_siblings(core) for core in os.sched_getaffinity(0)})
    cores = turn(ordered, share.workers_before)
    places = choose_places(config, gpus=len(placement.choice.gpus), cores=cores)
    chosen = [placement if place.gpu is None else placement.on_one(place.gpu) for place in places]
    checked = [check_split(one, options) for one in chosen]
    model = resolve_model(config.model, progress=False)
    return tuple(
        _make_load(model, chosen[number], place, options=checked[number]) for number, place in enumerate(places)
    )


def _make_load(model: ModelFile, placement: Placement, place: Place, *, options: dict[str, object]) -> Load:
    completed = complete_options(model, options)
    if completed["threads"] is None:
        completed["threads"] = place.threads
    if placement.backend is None:
        completed = keep_to_core(completed, place.core)
    return Load(model, placement, completed)


def _read_siblings(core: int) -> tuple[int, ...]:
    """Return the cores that share a physical one with ``core``, from the kernel's ``0-1`` or ``0,8``."""
    try:
        text = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list").read_text(encoding="ascii")
    except OSError:
        return (core,)
    parts = [[int(number) for number in part.split("-")] for part in re.findall(r"\d+(?:-\d+)?", text)]
    return tuple(sorted({core, *(number for ends in parts for number in range(ends[0], ends[-1] + 1))}))
