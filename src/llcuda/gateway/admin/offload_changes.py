"""Where a model is to run, chosen while it is served: on the GPU, partly, or on the CPU."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from logging import getLogger
from typing import TYPE_CHECKING, Any

from llcuda.engine.placement import choose_placement
from llcuda.errors import LlcudaError
from llcuda.fleet.refusals import RefusedError
from llcuda.fleet.served_model import find_model
from llcuda.gateway.api.fields import MOST_LAYERS, OFFLOADS, read_known

if TYPE_CHECKING:
    from llcuda.fleet.fleet import Fleet
    from llcuda.fleet.model_config import ModelConfig
    from llcuda.gateway.admin.information import AdministeredGateway

__all__ = ["Choice", "Offloads", "describe_choice", "parse_choice"]

_FIELDS = ("model", "offload", "gpu_layers")


@dataclass(frozen=True, slots=True)
class Choice:
    """What was asked for."""

    model: str
    offload: str
    """``full``: all layers on the GPU, or as many as fit, as llama-server finds. ``mixed``: so many. ``cpu``: none.
    ``auto``: like ``full`` if there is a GPU, else like ``cpu``."""
    gpu_layers: int | None = None

    def apply(self, config: ModelConfig, *, gpu: str) -> ModelConfig:
        """Return the model's configuration with it; ``gpu`` is ``cuda`` or ``cuda:N``."""
        device = {"auto": "auto", "cpu": "cpu"}.get(self.offload, gpu)
        return replace(config, device=device, gpu_layers=self.gpu_layers)


@dataclass(slots=True)
class _Change:
    """The last change of a model, and what became of it."""

    number: int
    choice: Choice
    state: str = "running"
    error: LlcudaError | None = None


class Offloads:
    """Changes models one at a time, and keeps what came of it."""

    def __init__(self, site: AdministeredGateway) -> None:
        self._site = site
        self._models = site.models
        self._changes: dict[str, _Change] = {}
        self._number = 0
        self._task: asyncio.Task[None] | None = None
        # A model that was kept to one GPU goes back to that one.
        self._gpus = {model.name: model.device for model in site.config.models if model.device.startswith("cuda")}

    async def begin(self, body: bytes) -> dict[str, Any]:
        """Take the body of a request, begin the change, and return what was begun.

        Raises RefusedError, and nothing has changed then: 400 for what is no choice, 404 for another model, 409 if it
        cannot work on this machine, and while another change is under way.
        """
        choice = parse_choice(body)
        fleet = find_model(self._models, choice.model).fleet
        if not fleet.config.workers:
            raise RefusedError(409, "all workers of this model are on other machines", code="remote", param="model")
        _check_layers(choice, fleet)
        config = choice.apply(fleet.config, gpu=self._gpus.get(choice.model, "cuda"))
        await _check_device(config)
        if self._task is not None and not self._task.done():
            raise RefusedError(409, "another change is under way", code="change_under_way")
        self._number += 1
        self._changes[choice.model] = change = _Change(self._number, choice)
        self._task = asyncio.ensure_future(self._run(change, config))
        return {"model": choice.model, "change": _describe_change(change, is_admin=True)}

    def describe(self, name: str, *, is_admin: bool) -> dict[str, Any]:
        """Return the choice that holds for a model, and the last change; why it failed is for administrators."""
        fleet = self._models[name].fleet
        change = self._changes.get(name)
        return {
            **describe_choice(fleet.config),
            "layers": _count_layers(fleet),
            "change": None if change is None else _describe_change(change, is_admin=is_admin),
        }

    async def _run(self, change: _Change, config: ModelConfig) -> None:
        fleet = self._models[config.name].fleet
        before, replicas = fleet.config, fleet.replicas
        try:
            await self._serve(config)
        except LlcudaError as error:
            getLogger("llcuda").warning("%s goes on as before: %s", config.name, error)
            if fleet.config is config:
                await self._go_back(before, is_whole=fleet.replicas == replicas)
            change.state, change.error = "failed", error
        else:
            change.state = "done"

    async def _serve(self, config: ModelConfig, *, is_anew: bool = True) -> None:
        """Serve a model as ``config`` says, with new workers if ``is_anew``. Raises why one does not start."""
        models = tuple(config if one.name == config.name else one for one in self._site.config.models)
        changed = replace(self._site.config, models=models)
        await self._site.reload(changed, models=(config.name,) if is_anew else ())

    async def _go_back(self, config: ModelConfig, *, is_whole: bool) -> None:
        """Serve as before, with new workers if those before are not there any more."""
        if not self._site.is_stopping:
            try:
                await self._serve(config, is_anew=not is_whole)
            except LlcudaError as error:
                getLogger("llcuda").warning("%s could not be started again as before: %s", config.name, error)


def parse_choice(body: bytes) -> Choice:
    """Return the choice that a body has. Raises RefusedError (400)."""
    fields = read_known(body, _FIELDS)
    model, offload, layers = (fields.get(name) for name in _FIELDS)
    if not isinstance(model, str):
        raise _invalid("model", "is not the name of a model")
    if offload not in OFFLOADS:
        raise _invalid("offload", f"is none of {', '.join(OFFLOADS)}")
    if offload != "mixed" and layers is not None:
        raise _invalid("gpu_layers", "goes with mixed alone")
    if offload == "mixed" and (type(layers) is not int or not 1 <= layers <= MOST_LAYERS):
        raise _invalid("gpu_layers", f"is not a number of layers from 1 to {MOST_LAYERS}")
    return Choice(model, offload, layers)


def describe_choice(config: ModelConfig) -> dict[str, Any]:
    """Return the choice that a configuration amounts to."""
    layers = config.gpu_layers
    if config.device == "cpu" or layers == 0:
        return {"choice": "cpu", "gpu_layers": None}
    if layers is not None:
        return {"choice": "mixed", "gpu_layers": layers}
    return {"choice": "auto" if config.device == "auto" else "full", "gpu_layers": None}


def _describe_change(change: _Change, *, is_admin: bool) -> dict[str, Any]:
    told, choice = change.error if is_admin else None, change.choice
    return {
        "number": change.number,
        "offload": choice.offload,
        "gpu_layers": choice.gpu_layers,
        "state": change.state,
        "message": told.message if told else None,
        "hint": told.hint if told else None,
    }


def _check_layers(choice: Choice, fleet: Fleet) -> None:
    most = _count_layers(fleet)
    if choice.gpu_layers is not None and most is not None and choice.gpu_layers > most:
        raise _invalid("gpu_layers", f"is more than the {most} layers of this model")


async def _check_device(config: ModelConfig) -> None:
    """Raise RefusedError if this machine has no GPU for it; the driver may take a moment to say so."""
    try:
        await asyncio.to_thread(choose_placement, config.device, require_gpu=False, gpu_layers=config.gpu_layers)
    except LlcudaError as error:
        message = f"{error.message} {error.hint}" if error.hint else error.message
        raise RefusedError(409, message, code="device_unavailable", param="offload") from None


def _count_layers(fleet: Fleet) -> int | None:
    """Return how many layers a loaded model has, the output among them, as llama-server counts."""
    layers = None if fleet.model is None else fleet.model.info.layers
    return None if layers is None else layers + 1


def _invalid(name: str, what: str) -> RefusedError:
    return RefusedError(400, f"{name} {what}", code="invalid_value", param=name)
