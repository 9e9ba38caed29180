"""Read from an ELF file what a wheel's content is judged by: what it needs, where it looks, and how it is hardened."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from elftools.elf.elffile import ELFFile

__all__ = ["ElfFile", "is_elf", "read_elf", "read_section"]

_MAGIC = b"\x7fELF\x02\x01"  # 64-bit, little-endian
_DF_BIND_NOW, _DF_1_NOW, _DF_1_PIE, _PF_X = 0x8, 0x1, 0x08000000, 0x1


@dataclass(frozen=True, slots=True)
class ElfFile:
    """Facts of one executable or shared library."""

    needed: tuple[str, ...]
    soname: str | None
    rpath: str | None
    runpath: str | None
    is_executable: bool
    is_pie: bool
    has_relro: bool
    binds_now: bool
    has_executable_stack: bool
    is_stripped: bool


def is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == _MAGIC[:4]


def read_elf(path: Path) -> ElfFile:
    """Parse a 64-bit little-endian ELF file. Raises ValueError if it is not one, or is damaged."""
    from elftools.elf.dynamic import DynamicSegment  # noqa: PLC0415

    with _open(path) as elf:
        segments = {segment["p_type"]: segment for segment in elf.iter_segments()}
        dynamic = [tag for one in segments.values() if isinstance(one, DynamicSegment) for tag in one.iter_tags()]
        flags = {tag.entry.d_tag: tag.entry.d_val for tag in dynamic}
        stack = segments.get("PT_GNU_STACK")

        def read(name: str) -> list[str]:
            return [getattr(tag, name) for tag in dynamic if tag.entry.d_tag == f"DT_{name.upper()}"]

        return ElfFile(
            needed=tuple(read("needed")),
            soname=next(iter(read("soname")), None),
            rpath=next(iter(read("rpath")), None),
            runpath=next(iter(read("runpath")), None),
            is_executable="PT_INTERP" in segments,
            is_pie=elf["e_type"] == "ET_DYN" and bool(flags.get("DT_FLAGS_1", 0) & _DF_1_PIE),
            has_relro="PT_GNU_RELRO" in segments,
            binds_now=bool(flags.get("DT_FLAGS", 0) & _DF_BIND_NOW or flags.get("DT_FLAGS_1", 0) & _DF_1_NOW)
            or "DT_BIND_NOW" in flags,
            has_executable_stack=stack is None or bool(stack["p_flags"] & _PF_X),
            is_stripped=not any(section["sh_type"] == "SHT_SYMTAB" for section in elf.iter_sections()),
        )


def read_section(path: Path, name: str) -> bytes:
    """Return a section's content, empty if there is none. Raises ValueError for what is no ELF file."""
    with _open(path) as elf:
        section = elf.get_section_by_name(name)
        return section.data() if section else b""


@contextmanager
def _open(path: Path) -> Iterator[ELFFile]:
    # Only what looks into binaries needs pyelftools; fetching and building go with the standard library.
    from elftools.common.exceptions import ELFError  # noqa: PLC0415
    from elftools.common.utils import elf_assert  # noqa: PLC0415
    from elftools.elf.elffile import ELFFile  # noqa: PLC0415

    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError(f"{path} is not a 64-bit little-endian ELF file")
        try:
            elf = ELFFile(file)
            elf.stream.seek(elf["e_shoff"] + elf["e_shnum"] * elf["e_shentsize"] - 1)
            # pyelftools reads a file without its end as one without sections.
            elf_assert(elf.stream.read(1), "it is cut short")
            yield elf
        except (ELFError, AttributeError, KeyError, OSError, TypeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is a damaged ELF file: {error}") from error
