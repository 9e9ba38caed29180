"""Read from a CUDA library which GPUs it has code for: the containers that nvcc puts into its .nv_fatbin section.

The layout is what the CUDA driver reads (the container's header is in the toolkit's fatbinary_section.h, its entries
are known from ``cuobjdump``, with which a build compares the result where the toolkit has it).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tools.binaries.elf import read_section

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["GpuCode", "read_gpu_code"]

_CONTAINER = struct.Struct("<IHHQ")  # magic, version, bytes of this header, bytes that follow it
_MAGIC = 0xBA55ED50
_ENTRY = struct.Struct("<HHIQIIHHI")  # kind, version, bytes of this header, bytes that follow, …, minor, major, number
_KINDS = {1: "compute", 2: "sm"}  # PTX, machine code
_ALIGNMENT = 8


@dataclass(frozen=True, slots=True)
class GpuCode:
    """One piece of code for one architecture."""

    architecture: str
    """``sm_75`` is machine code, ``compute_90`` is PTX; a suffix such as the ``a`` of ``sm_120a`` is not recorded."""
    bytes: int
    """As stored: after compression, where it is compressed."""


def read_gpu_code(path: Path) -> list[GpuCode]:
    """Return every piece of GPU code in a library or an object; an empty list where it has none.

    Raises ValueError for a file that is no ELF file or whose section is damaged.
    """
    section = read_section(path, ".nv_fatbin")
    try:
        return list(_read_containers(section))
    except (struct.error, KeyError) as error:
        raise ValueError(f"{path}: its .nv_fatbin section is damaged: {error!r}") from error


def _read_containers(section: bytes) -> Iterator[GpuCode]:
    offset = 0
    while offset < len(section):
        magic, _, header, size = _CONTAINER.unpack_from(section, offset)
        start, end = offset + header, offset + header + size
        if magic != _MAGIC or end > len(section):
            raise struct.error(f"no whole container at byte {offset}")
        yield from _read_entries(section[start:end])
        offset = end + -end % _ALIGNMENT


def _read_entries(container: bytes) -> Iterator[GpuCode]:
    offset = 0
    while offset < len(container):
        kind, _, header, size, _, _, _, _, number = _ENTRY.unpack_from(container, offset)
        yield GpuCode(architecture=f"{_KINDS[kind]}_{number}", bytes=header + size)
        offset += header + size
