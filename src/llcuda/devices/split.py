"""How a model is shared out between several GPUs: by the memory that is free on each."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llcuda.devices.facts import Gpu

__all__ = ["suggest_tensor_split"]


def suggest_tensor_split(gpus: Sequence[Gpu]) -> tuple[int, ...] | None:
    """Return each GPU's share of the memory that is free on all of them, in percent, for ``tensor_split``.

    None for a single GPU, and where it is not known of each how much is free, or nothing is. llama-server shares out
    by free memory where no ``tensor_split`` is given (``llama_model::load_tensors``), so nothing needs to pass this on.
    """
    free = [gpu.memory_free_mib for gpu in gpus if gpu.memory_free_mib is not None]
    total = sum(free)
    if len(gpus) < 2 or len(free) < len(gpus) or not total:  # noqa: PLR2004 - one GPU has all of it
        return None
    return tuple(round(100 * mib / total) for mib in free)
