"""Which GPUs a CUDA program sees: CUDA_VISIBLE_DEVICES, read as CUDA reads it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llcuda.devices.inventory import Gpu

_NUMBER = re.compile(r"\s*[+-]?\d+")


def choose_visible(gpus: Sequence[Gpu], value: str | None, *, order: str = "") -> tuple[tuple[Gpu, ...], str]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES=``value`` leaves, in its order, and a remark if one is due.

    As CUDA does: entries are numbers, or beginnings of UUIDs that fit one device; the first entry that fits none ends
    the list; a device that is named twice empties it. Numbers count in CUDA's order. Unless CUDA_DEVICE_ORDER
    (``order``) is PCI_BUS_ID, the fastest GPU is first: here the one of the highest compute capability, then of the
    most memory, with a remark if it matters.
    """
    if value is None:
        return tuple(gpus), ""
    entries = value.split(",")
    numbered = _number(gpus, by_bus=order == "PCI_BUS_ID")
    chosen: list[Gpu] = []
    for entry in entries:
        gpu = _find(entry.strip(), gpus, numbered=numbered)
        if gpu is None:
            break
        if gpu in chosen:
            return (), f"CUDA_VISIBLE_DEVICES={value} names one GPU twice, which makes CUDA see none."
        chosen.append(gpu)
    if len(chosen) < len(entries):
        return tuple(chosen), _explain_end(value, entries[len(chosen)].strip(), known=len(numbered))
    guessed = order != "PCI_BUS_ID" and len({gpu.name for gpu in gpus}) > 1 and _NUMBER.match(value)
    return tuple(chosen), _GUESS.format(value=value) if guessed else ""


_GUESS = (
    "CUDA_VISIBLE_DEVICES={value} counts in CUDA's order, fastest GPU first, which can differ from nvidia-smi's; "
    "UUIDs, or CUDA_DEVICE_ORDER=PCI_BUS_ID, leave no doubt."
)


def _number(gpus: Sequence[Gpu], *, by_bus: bool) -> list[Gpu]:
    """Return the devices that numbers mean, in CUDA's order: of a GPU in slices CUDA takes the first one."""
    first = {gpu.index: gpu for gpu in reversed(gpus)}
    numbered = [first[index] for index in sorted(first)]
    if numbered and not by_bus:
        fastest = max(numbered, key=lambda gpu: (_capability(gpu), gpu.memory_total_mib, -gpu.index))
        numbered.remove(fastest)
        numbered.insert(0, fastest)
    return numbered


def _capability(gpu: Gpu) -> tuple[int, ...]:
    return tuple(int(part) for part in gpu.capability.split(".") if part.isdigit())


def _find(entry: str, gpus: Sequence[Gpu], *, numbered: Sequence[Gpu]) -> Gpu | None:
    number = _NUMBER.match(entry)
    if number:
        at = int(number[0])
        return numbered[at] if 0 <= at < len(numbered) else None
    if not entry.startswith(("GPU-", "MIG-")):
        return None
    found = [gpu for gpu in gpus if gpu.uuid.lower().startswith(entry.lower())]
    return found[0] if len(found) == 1 else None


def _explain_end(value: str, entry: str, *, known: int) -> str:
    if value.strip() in {"", "-1"}:
        return f'CUDA_VISIBLE_DEVICES="{value}" hides every GPU.'
    counted = "1 GPU" if known == 1 else f"{known} GPUs"
    return f"CUDA_VISIBLE_DEVICES={value} ends at {entry or 'an empty entry'}, which is none of the {counted} here."
