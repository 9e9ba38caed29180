"""A bar for what takes long: bytes that come, or are read."""

from __future__ import annotations

from typing import Any

__all__ = ["show_bar"]

_NAME_CHARACTERS = 40


def show_bar(name: str, total: int | None, *, initial: int = 0, is_shown: bool = True, delay: float = 0.0) -> Any:
    """Return a bar of tqdm's for ``total`` bytes, which a terminal shows after ``delay`` seconds if ``is_shown``."""
    from huggingface_hub.utils.tqdm import tqdm  # noqa: PLC0415 - loaded only when needed

    return tqdm(  # type: ignore[no-untyped-call]
        desc=name[-_NAME_CHARACTERS:], total=total, initial=initial, unit="B", unit_scale=True, delay=delay,
        disable=None if is_shown else True,
    )  # fmt: skip
