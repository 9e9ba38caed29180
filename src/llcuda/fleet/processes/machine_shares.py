"""How the workers of one model share the machine: which GPU, how many threads, how much context, and if one more fits.

llama-server divides ``--ctx-size`` among its slots and rounds each part up to 256 tokens, unless ``--kv-unified`` makes
one pool of it, from which one slot can take what the others were promised. So it is given as many times the context of
a slot as there are slots, and no pool.

Workers of one thread each are kept to a core of their own if there is one for each: two of them with the demo model
made 9,200 tokens/s together instead of 7,200 on two busy cores, and 7,900 instead of 5,900 with another program on one
of the two (medians of six; the scheduler moves a thread that sleeps between tokens from core to core). More threads
than one are the scheduler's: that was not measured.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llcuda.engine.load import Load, complete_options, require_whole_binaries
from llcuda.engine.placement import check_split, choose_placement
from llcuda.errors import UsageError
from llcuda.models import resolve_model
from llcuda.server.free_memory import limit_prompt_cache

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llcuda.engine import DeviceReport
    from llcuda.engine.placement import Placement
    from llcuda.fleet.model_config import ModelConfig
    from llcuda.models import ModelFile

__all__ = [
    "Place", "Share", "choose_options", "choose_places", "has_room", "keep_to_core", "order_cores", "prepare_loads",
    "turn",
]  # fmt: skip

_OURS = ("ctx_size", "gpu_layers", "n_parallel", "parallel", "threads")
_MIB = 1 << 20
_SPARE_MIB = 512
_SPARE_GPU_MIB = 1536
"""llama-server's own fitting leaves 1 GiB free and takes layers off the GPU otherwise; CUDA needs some of the rest."""
_SPARE_SHARE = 1.1
_NOT_SHARED = ("kv_unified", "kv_unified_per_slot")


@dataclass(frozen=True, slots=True)
class Place:
    """What one worker has of the machine."""

    gpu: int | None
    """The number of its GPU among those that were chosen; None leaves it all of them, or the CPU."""
    threads: int | None
    """CPU threads, if neither the user nor the size of the model says how many; None leaves them to llama-server."""
    core: int | None = None
    """The core that is its alone, if it has one thread; None if there are not enough."""


def order_cores(siblings: Mapping[int, Sequence[int]]) -> tuple[int, ...]:
    """Return the cores so that the first ones are physical cores of their own.

    ``siblings`` has for each core those that it shares a physical one with, itself among them.
    """
    return tuple(sorted(siblings, key=lambda core: (sorted(siblings[core]).index(core), core)))


def turn(cores: Sequence[int], number: int) -> tuple[int, ...]:
    """Return the cores with the first ``number`` of them at the end: they are those of other models."""
    return tuple(cores[(number + at) % len(cores)] for at in range(len(cores)))


def choose_places(config: ModelConfig, *, gpus: int, cores: Sequence[int]) -> tuple[Place, ...]:
    """Return a place for each worker, if ``gpus`` were chosen for the model and this process has ``cores``.

    Several workers take the GPUs in turn; a single one has them all, as an :class:`llcuda.InferenceEngine` has. The
    cores are shared out evenly, unless there is one worker: llama-server then takes the physical ones.
    Raises UsageError for numbers that are none.
    """
    for name, value in (("workers", config.workers), ("slots", config.slots)):
        if value < 1:
            raise UsageError(f"{name}={value} of the model {config.name} is below 1")
    share = None if config.workers == 1 else max(1, len(cores) // config.workers)
    in_turn = config.workers > 1 and gpus > 0
    own = cores if 1 < config.workers <= len(cores) else ()
    return tuple(
        Place(number % gpus if in_turn else None, share, own[number] if own else None)
        for number in range(config.workers)
    )


def choose_options(config: ModelConfig) -> dict[str, Any]:
    """Return llama-server's options for each worker, before the model and the place add to them.

    Raises UsageError for a server option that another setting of the model decides.
    """
    asked = {name for name, value in config.server_options.items() if value is not None}
    for name in sorted(asked.intersection((*_OURS, *_NOT_SHARED))):
        raise UsageError(
            f"the option {name} of the model {config.name} is not one of its server options",
            hint="Set slots, ctx_size (tokens of each slot), gpu_layers and threads of the model itself.",
        )
    return {
        "alias": config.name,  # otherwise answers name the file, with its folder
        **config.server_options,
        "gpu_layers": config.gpu_layers,
        "ctx_size": None if config.ctx_size is None else config.ctx_size * config.slots,
        "n_parallel": config.slots,
        "kv_unified": False,
        "threads": config.threads,
    }


def keep_to_core(options: Mapping[str, Any], core: int | None) -> dict[str, Any]:
    """Return the options with the one thread that they ask for kept to ``core``, unless the user chose the cores."""
    is_chosen = any(options.get(name) is not None for name in ("cpu_mask", "cpu_range", "cpu_strict", "numa"))
    if core is None or is_chosen or options.get("threads") != 1:
        return dict(options)
    return {**options, "cpu_range": f"{core}-{core}", "cpu_strict": 1}


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


def has_room(report: DeviceReport, *, gpus_free_mib: Mapping[str, int | None], memory_free_mib: int | None) -> bool:
    """Return whether every device could hold once more what the ``report`` says that it holds.

    ``gpus_free_mib`` is by the GPUs' UUIDs. What is not known counts as too little.
    """
    return all(
        _fits(use.total_bytes, gpus_free_mib.get(use.uuid), spare_mib=_SPARE_GPU_MIB)
        if use.uuid
        else _fits(use.total_bytes, memory_free_mib, spare_mib=_SPARE_MIB)
        for use in report.devices
    )


def _fits(size: int, free_mib: int | None, *, spare_mib: int) -> bool:
    return free_mib is not None and size / _MIB * _SPARE_SHARE + spare_mib <= free_mib
