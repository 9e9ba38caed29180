"""How much of a GPU's memory llama-server's own fitting leaves free, where the GPU is small.

It leaves 1 GiB free on every GPU, for what else the GPU does. That is all that a GeForce 940M has, and half of a GTX
1050: nothing would ever be put on the one, and next to nothing on the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llcuda.devices import Gpu

__all__ = ["choose_fit_target"]

_DEFAULT_MIB = 1024
"""llama-server's own, ``--fit-target``."""
_SHARE = 8
"""One eighth: the default of a GPU with 8 GiB."""


def choose_fit_target(gpus: Sequence[Gpu]) -> str | None:
    """Return ``fit_target`` for these GPUs, MiB for each; None where its own is right or nothing is known."""
    margins = [min(_DEFAULT_MIB, gpu.memory_total_mib // _SHARE) or _DEFAULT_MIB for gpu in gpus]
    return None if all(margin == _DEFAULT_MIB for margin in margins) else ",".join(map(str, margins))
