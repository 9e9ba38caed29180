"""What each worker of a model is started with: the model, found once, and the place of each on the machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from llcuda.engine.load import Load, complete_options, first, require_whole_binaries
from llcuda.engine.placement import choose_placement
from llcuda.engine.split import check_split
from llcuda.gateway.placing import choose_options, choose_places
from llcuda.models import resolve_model

if TYPE_CHECKING:
    from llcuda.engine.placement import Placement
    from llcuda.gateway.config import ModelConfig
    from llcuda.gateway.placing import Place
    from llcuda.models import ModelFile

__all__ = ["prepare_loads"]


def prepare_loads(config: ModelConfig) -> tuple[Load, ...]:
    """Return a load for each worker; the model is downloaded where it is not on this disk.

    Raises what :meth:`llcuda.InferenceEngine.load_model` raises before it starts anything.
    """
    options = choose_options(config)
    require_whole_binaries()
    placement = choose_placement(config.device, require_gpu=False, gpu_layers=config.gpu_layers)
    cores = len(os.sched_getaffinity(0))
    places = choose_places(config, gpus=len(placement.choice.gpus), cores=cores)
    chosen = [placement if place.gpu is None else placement.on_one(place.gpu) for place in places]
    checked = [check_split(one, options) for one in chosen]
    model = resolve_model(config.model, progress=False)
    return tuple(
        _make_load(model, chosen[number], place, options=checked[number]) for number, place in enumerate(places)
    )


def _make_load(model: ModelFile, placement: Placement, place: Place, *, options: dict[str, object]) -> Load:
    completed = complete_options(model, options)
    completed["threads"] = first(completed["threads"], place.threads)
    return Load(model, placement, completed, fallback="auto", silent=True)
