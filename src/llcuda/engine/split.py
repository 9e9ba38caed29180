"""How a model is split over several GPUs: llama-server's options for it, held against the GPUs that were chosen."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from llcuda.engine.placement import OWN_SERVER
from llcuda.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llcuda.engine.placement import Placement

__all__ = ["SPLIT_OPTIONS", "check_split"]

SPLIT_OPTIONS = ("split_mode", "tensor_split", "main_gpu")


def check_split(placement: Placement, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the server ``options`` without those that nothing is left for where ``auto`` came to the CPU.

    Raises UsageError where they contradict the device that was asked for or the number of GPUs that were chosen. For a
    llama-server of the user's own they are its to judge.
    """
    asked = [name for name in SPLIT_OPTIONS if options.get(name) is not None]
    if asked and placement.asked == "cpu":
        raise UsageError(
            f'{asked[0]} shares a model out between GPUs, and device="cpu" uses none',
            hint=f'Leave {" and ".join(asked)} out, or use device="auto".',
        )
    if placement.choice.code == OWN_SERVER:
        return dict(options)
    if placement.backend is None:
        return {**options, **dict.fromkeys(asked)}
    _check_mode(options.get("split_mode"))
    _check_number("tensor_split", _count_shares(options.get("tensor_split")), placement)
    _check_number("main_gpu", _count_up_to(options.get("main_gpu")), placement)
    return dict(options)


def _check_mode(mode: object) -> None:
    # It is in llama-server's help, and ggml-cuda has had no split buffers since 2026: the model would not be loaded.
    if mode == "row":
        raise UsageError(
            'split_mode="row" is no longer there in llama.cpp\'s CUDA backend',
            hint='Use "tensor", which shares every matrix out, or "layer".',
        )


def _check_number(name: str, needed: int, placement: Placement) -> None:
    count = len(placement.choice.gpus)
    if needed > count:
        raise UsageError(
            f"{name} is for {needed} GPUs, and {_count(count)} with device={placement.asked!r}",
            hint=_advise(placement.asked),
        )


def _count_shares(shares: object) -> int:
    """Return how many GPUs a ``tensor_split`` is for: ``[3, 1]``, ``(3, 1)``, and ``"3,1"`` or ``"3/1"``."""
    if isinstance(shares, str):
        return len(re.split(r"[,/]+", shares))
    return len(shares) if isinstance(shares, (list, tuple)) else 0


def _count_up_to(number: object) -> int:
    """Return how many GPUs there must be for the one of this number, from 0 on."""
    if not isinstance(number, int):
        return 0
    if number < 0:
        raise UsageError(f"main_gpu={number} is no GPU", hint='Count from 0 on; device="cpu" uses none.')
    return number + 1


def _count(count: int) -> str:
    return "1 is used" if count == 1 else f"{count} are used"


def _advise(asked: str) -> str:
    if ":" in asked:
        return 'Use device="cuda" for all of them, or leave it out.'
    return "Leave it out, or name no more GPUs than `llcuda gpu status` shows as used."
