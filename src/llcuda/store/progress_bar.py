"""A bar for what takes long: bytes that come or are read, and tensors that are made."""

from __future__ import annotations

from typing import Any

__all__ = ["show_bar"]

_NAME_CHARACTERS = 40


def show_bar(
    name: str, total: int | None, *, initial: int = 0, is_shown: bool = True, delay: float = 0.0, unit: str = "B"
) -> Any:
    """Return a bar of tqdm's for ``total`` bytes, or units, which a terminal shows after ``delay`` seconds."""
    from huggingface_hub.utils.tqdm import tqdm  # noqa: PLC0415 - loaded only when needed

    return tqdm(  # type: ignore[no-untyped-call]
        desc=name[-_NAME_CHARACTERS:], total=total, initial=initial, unit=unit, unit_scale=unit == "B", delay=delay,
        disable=None if is_shown else True,
    )  # fmt: skip
