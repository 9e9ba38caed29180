"""Read from an ELF file what a wheel's content is judged by: what it needs, where it looks, and how it is hardened."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ElfFile", "is_elf", "read_elf", "read_section"]

MAGIC = b"\x7fELF\x02\x01"  # 64-bit, little-endian
PT_DYNAMIC, PT_INTERP, PT_GNU_STACK, PT_GNU_RELRO, PT_LOAD = 2, 3, 0x6474E551, 0x6474E552, 1
DT_NEEDED, DT_STRTAB, DT_SONAME, DT_RPATH, DT_RUNPATH = 1, 5, 14, 15, 29
DT_FLAGS, DT_FLAGS_1, DT_BIND_NOW = 30, 0x6FFFFFFB, 24
DF_BIND_NOW, DF_1_NOW, DF_1_PIE = 0x8, 0x1, 0x08000000
SHT_SYMTAB = 2
PF_X = 1
ET_DYN = 3


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


@dataclass(frozen=True, slots=True)
class Segment:
    kind: int
    flags: int
    offset: int
    address: int
    size: int


def is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == MAGIC[:4]


def read_elf(path: Path) -> ElfFile:
    """Parse a 64-bit little-endian ELF file. Raises ValueError when it is not one."""
    data = path.read_bytes()
    if data[:6] != MAGIC:
        message = f"{path} is not a 64-bit little-endian ELF file"
        raise ValueError(message)
    try:
        return parse_elf(data)
    except (struct.error, IndexError) as error:
        message = f"{path} is a damaged ELF file: {error}"
        raise ValueError(message) from error


def read_section(path: Path, name: str) -> bytes:
    """Return a section's content, empty where there is none. Raises ValueError for what is no ELF file."""
    data = path.read_bytes()
    if data[:6] != MAGIC:
        message = f"{path} is not a 64-bit little-endian ELF file"
        raise ValueError(message)
    (start,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    headers = [struct.unpack_from("<IIQQQQ", data, start + index * size) for index in range(count)]
    for label, _, _, _, offset, length in headers:
        if read_string(data, headers[names][4] + label) == name:
            return data[offset : offset + length]
    return b""


def parse_elf(data: bytes) -> ElfFile:
    segments = read_segments(data)
    kinds = {segment.kind: segment for segment in segments}
    dynamic = read_dynamic(data, kinds.get(PT_DYNAMIC))
    strings = to_offset(segments, dict(dynamic).get(DT_STRTAB, 0))

    def text(tag: int) -> tuple[str, ...]:
        return tuple(read_string(data, strings + value) for key, value in dynamic if key == tag)

    flags, flags_1 = dict(dynamic).get(DT_FLAGS, 0), dict(dynamic).get(DT_FLAGS_1, 0)
    (elf_type,) = struct.unpack_from("<H", data, 16)
    stack = kinds.get(PT_GNU_STACK)
    return ElfFile(
        needed=text(DT_NEEDED),
        soname=next(iter(text(DT_SONAME)), None),
        rpath=next(iter(text(DT_RPATH)), None),
        runpath=next(iter(text(DT_RUNPATH)), None),
        is_executable=PT_INTERP in kinds,
        is_pie=elf_type == ET_DYN and bool(flags_1 & DF_1_PIE),
        has_relro=PT_GNU_RELRO in kinds,
        binds_now=bool(flags & DF_BIND_NOW or flags_1 & DF_1_NOW or DT_BIND_NOW in dict(dynamic)),
        has_executable_stack=stack is None or bool(stack.flags & PF_X),
        is_stripped=SHT_SYMTAB not in read_section_kinds(data),
    )


def read_segments(data: bytes) -> list[Segment]:
    (start,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    segments = []
    for index in range(count):
        kind, flags, offset, address, _, length = struct.unpack_from("<IIQQQQ", data, start + index * size)
        segments.append(Segment(kind=kind, flags=flags, offset=offset, address=address, size=length))
    return segments


def read_section_kinds(data: bytes) -> set[int]:
    (start,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    return {struct.unpack_from("<I", data, start + index * size + 4)[0] for index in range(count)}


def read_dynamic(data: bytes, segment: Segment | None) -> list[tuple[int, int]]:
    if segment is None:
        return []
    entries = []
    for position in range(segment.offset, segment.offset + segment.size, 16):
        tag, value = struct.unpack_from("<QQ", data, position)
        if tag == 0:
            break
        entries.append((tag, value))
    return entries


def to_offset(segments: list[Segment], address: int) -> int:
    for segment in segments:
        if segment.kind == PT_LOAD and segment.address <= address < segment.address + segment.size:
            return address - segment.address + segment.offset
    return 0


def read_string(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode()
