"""How the workers of one model share the machine: which GPU each has, how many threads, and how much context.

llama-server divides ``--ctx-size`` among its slots and rounds each part up to 256 tokens, unless ``--kv-unified`` makes
one pool of it, from which one slot can take what the others were promised. So it is given as many times the context of
a slot as there are slots, and no pool.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llcuda.errors import UsageError

if TYPE_CHECKING:
    from llcuda.gateway.config import ModelConfig

__all__ = ["Place", "choose_options", "choose_places"]

_OURS = ("ctx_size", "gpu_layers", "n_parallel", "parallel", "threads")
_NOT_SHARED = ("kv_unified", "kv_unified_per_slot")


@dataclass(frozen=True, slots=True)
class Place:
    """What one worker has of the machine."""

    gpu: int | None
    """The number of its GPU among those that were chosen; None leaves it all of them, or the CPU."""
    threads: int | None
    """CPU threads, where neither the user nor the size of the model says how many; None leaves them to llama-server."""


def choose_places(config: ModelConfig, *, gpus: int, cores: int) -> tuple[Place, ...]:
    """Return a place for each worker, where ``gpus`` were chosen for the model and this process has ``cores``.

    Several workers take the GPUs in turn; a single one has them all, as an :class:`llcuda.InferenceEngine` has. The
    cores are shared out evenly, unless there is one worker: llama-server then takes the physical ones.
    Raises UsageError for numbers that are none.
    """
    for name, value in (("workers", config.workers), ("slots", config.slots)):
        if value < 1:
            raise UsageError(f"{name}={value} of the model {config.name} is below 1")
    share = None if config.workers == 1 else max(1, cores // config.workers)
    in_turn = config.workers > 1 and gpus > 0
    return tuple(Place(number % gpus if in_turn else None, share) for number in range(config.workers))


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
        **config.server_options,
        "gpu_layers": config.gpu_layers,
        "ctx_size": None if config.ctx_size is None else config.ctx_size * config.slots,
        "n_parallel": config.slots,
        "kv_unified": False,
        "threads": config.threads,
    }
