"""Read a GGUF header: keys with their values, then the list of tensors. Nothing in it is believed.

Every count, length and offset is compared with the size of the file before anything is read or allocated for it. What
llama.cpp refuses (``gguf.cpp``: arrays inside arrays, duplicates, dimensions that overflow, tensors that do not lie one
behind the other) is refused here with the place in the file.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

from llcuda.gguf.cursor import Cursor
from llcuda.gguf.tensor_types import ARRAY, SCALARS, STRING, TENSOR_TYPES, UINT32

__all__ = ["Header", "Scalar", "TensorFacts", "read_header", "require_magic"]

Scalar = int | float | bool | str

MAX_KEYS = 4096
MAX_TENSORS = 16384
MAX_STRINGS = 1 << 21
"""Strings in all arrays together. The largest vocabulary known, Gemma 4's, has 777,000 with its merges."""
MAX_KEY_BYTES = 65535
MAX_TENSOR_NAME_BYTES = 63
MAX_DIMENSIONS = 4
MAX_KEPT_CHARACTERS = 1024
MAX_KEPT_ELEMENTS = 1024
"""Of an array of numbers: what has one for each layer is kept (there are at most 512 of these), a vocabulary is not."""
MAX_ALIGNMENT = 1 << 20
DEFAULT_ALIGNMENT = 32

_INT64_MAX = (1 << 63) - 1
_MIN_KEY_BYTES = 8 + 1 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 4 + 4 + 8
_LAYOUTS = {kind: struct.Struct("<" + code) for kind, code in SCALARS.items()}
_TENSOR_LAYOUTS = [struct.Struct("<" + "Q" * dimensions + "IQ") for dimensions in range(MAX_DIMENSIONS + 1)]


class TensorFacts(NamedTuple):
    """One tensor: its ``shape`` as GGUF has it, the length of a row first, and the ``bytes`` it takes."""

    shape: tuple[int, ...]
    bytes: int


@dataclass(slots=True)
class Header:
    """What was found in a header. ``lengths`` has the number of elements of every array, ``arrays`` the short ones."""

    version: int = 0
    metadata: dict[str, Scalar] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    arrays: dict[str, tuple[Scalar, ...]] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    strings: int = 0
    alignment: int = DEFAULT_ALIGNMENT
    tensor_count: int = 0
    tensor_bytes: int = 0
    tensors: dict[str, TensorFacts] = field(default_factory=dict)
    elements_by_type: dict[str, int] = field(default_factory=dict)


def read_header(cursor: Cursor) -> Header:
    """Read the header that ``cursor`` stands before.

    Raises ModelFormatError with the byte offset of what is wrong.
    """
    _read_magic(cursor)
    header = Header(version=_read_version(cursor))
    tensors = _read_count(cursor, "tensors", smallest=_MIN_TENSOR_BYTES, limit=MAX_TENSORS)
    keys = _read_count(cursor, "keys", smallest=_MIN_KEY_BYTES, limit=MAX_KEYS)
    for _ in range(keys):
        _read_pair(cursor, header)
    _read_tensors(cursor, header, tensors)
    return header


def require_magic(start: bytes, *, name: str) -> None:
    """Raise ModelFormatError, which calls the file ``name``, if no GGUF file begins with the bytes ``start``."""
    _read_magic(Cursor(lambda offset, count: start[offset : offset + count], len(start), name=name))


def _read_magic(cursor: Cursor) -> None:
    if cursor.size == 0:
        cursor.fail("the file is empty")
    magic = cursor.take(min(4, cursor.size), "the magic number")
    if magic == b"GGUF":
        return
    reason = f"it starts with {magic!r} and not with b'GGUF'"
    if magic == b"vers":
        cursor.fail(reason, offset=0, hint="This is a Git LFS pointer: `git lfs pull` fetches the model itself.")
    if magic[:1] == b"<":
        cursor.fail(reason, offset=0, hint="This looks like a web page: use the address of the file itself.")
    cursor.fail(reason, offset=0)


def _read_version(cursor: Cursor) -> int:
    version = cursor.u32("the version")
    if version == 1:
        cursor.fail("GGUF version 1 is no longer supported", offset=4, hint="Download a newer file of the same model.")
    if version and version & 0xFFFF == 0:
        cursor.fail("the file is big-endian", offset=4, hint="Download the little-endian file of the same model.")
    if version not in {2, 3}:
        cursor.fail(f"GGUF version {version} is not known, only 2 and 3 are", offset=4)
    return version


def _read_count(cursor: Cursor, what: str, *, smallest: int, limit: int) -> int:
    start = cursor.offset
    count = cursor.u64(f"the number of {what}")
    if count * smallest > cursor.remaining:
        cursor.fail(f"{count} {what} do not fit into the {cursor.remaining} bytes that are left", offset=start)
    if count > limit:
        cursor.fail(f"{count} {what} are more than the {limit} that are read", offset=start)
    return count


def _read_pair(cursor: Cursor, header: Header) -> None:
    start = cursor.offset
    key = cursor.text("a key", limit=MAX_KEY_BYTES)
    if not key:
        cursor.fail("a key is empty", offset=start)
    if key in header.keys:
        cursor.fail(f"the key {key!r} is there twice", offset=start)
    header.keys.add(key)
    at = cursor.offset
    kind = cursor.u32(f"the type of {key!r}")
    if kind == ARRAY:
        header.lengths[key] = _read_array(cursor, header, key)
        return
    value = _read_value(cursor, kind, key)
    if key == "general.alignment":
        header.alignment = _check_alignment(cursor, kind, value, at=at)
    elif key == "general.architecture" and kind != STRING:
        cursor.fail("general.architecture is not a string", offset=at)
    if not isinstance(value, str) or len(value) <= MAX_KEPT_CHARACTERS:
        header.metadata[key] = value


def _read_value(cursor: Cursor, kind: int, key: str) -> Scalar:
    if kind == STRING:
        return cursor.text(f"the value of {key!r}")
    layout = _LAYOUTS.get(kind)
    if layout is None:
        cursor.fail(f"{key!r} has the unknown type {kind}", offset=cursor.offset - 4)
    return cursor.unpack(layout, f"the value of {key!r}")[0]


def _read_array(cursor: Cursor, header: Header, key: str) -> int:
    """Return the array's length, and keep its elements if they are few and numbers."""
    start = cursor.offset
    kind = cursor.u32(f"the element type of {key!r}")
    count = cursor.u64(f"the length of {key!r}")
    what = f"the array {key!r}"
    if kind == STRING:
        header.strings += count
        if header.strings > MAX_STRINGS:
            cursor.fail(f"{what} brings the strings to more than {MAX_STRINGS}", offset=start)
        cursor.skip_strings(count, what)
    elif kind in _LAYOUTS and count <= MAX_KEPT_ELEMENTS:
        elements = cursor.take(count * _LAYOUTS[kind].size, what)
        header.arrays[key] = struct.unpack(f"<{count}{SCALARS[kind]}", elements)
    elif kind in _LAYOUTS:
        cursor.skip(count * _LAYOUTS[kind].size, what)
    else:
        cursor.fail(f"{what} has elements of type {kind}, which arrays cannot hold", offset=start)
    return count


def _check_alignment(cursor: Cursor, kind: int, value: Scalar, *, at: int) -> int:
    if kind != UINT32 or not isinstance(value, int):
        cursor.fail("general.alignment is not a 32-bit unsigned number", offset=at)
    if not 0 < value <= MAX_ALIGNMENT or value & (value - 1):
        cursor.fail(f"the alignment {value} is not a power of two up to {MAX_ALIGNMENT}", offset=at)
    return value


def _read_tensors(cursor: Cursor, header: Header, count: int) -> None:
    end = last_end = 0
    for _ in range(count):
        start = cursor.offset
        name = cursor.text("a tensor's name", limit=MAX_TENSOR_NAME_BYTES)
        if name in header.tensors:
            cursor.fail(f"the tensor {name!r} is there twice", offset=start)
        size, offset = _read_tensor(cursor, header, name)
        if offset != end:
            cursor.fail(f"the tensor {name!r} is at {offset} of the data, not at {end}", offset=cursor.offset - 8)
        last_end = offset + size
        end = _pad(last_end, header.alignment)
        header.tensor_bytes += size
    header.tensor_count = count
    _check_data(cursor, header, last_end)


def _read_tensor(cursor: Cursor, header: Header, name: str) -> tuple[int, int]:
    """Return the tensor's size in bytes and its offset in the data, and count its elements."""
    start = cursor.offset
    dimensions = cursor.u32("a tensor's dimensions")
    if dimensions > MAX_DIMENSIONS:
        cursor.fail(f"the tensor {name!r} has {dimensions} dimensions", offset=start)
    *shape, kind, offset = cursor.unpack(_TENSOR_LAYOUTS[dimensions], "a tensor's shape")
    elements = prod(shape)
    if max(shape, default=0) > _INT64_MAX or elements > _INT64_MAX:
        cursor.fail(f"the dimensions of {name!r} overflow", offset=start)
    stored = TENSOR_TYPES.get(kind)
    if stored is None:
        cursor.fail(f"the tensor {name!r} has the unknown type {kind}", offset=cursor.offset - 12)
    if (shape[0] if shape else 1) % stored.block_elements:
        cursor.fail(f"a row of {name!r} is not a whole number of {stored.name} blocks", offset=start)
    header.elements_by_type[stored.name] = header.elements_by_type.get(stored.name, 0) + elements
    size = elements // stored.block_elements * stored.block_bytes
    header.tensors[name] = TensorFacts(tuple(shape), size)
    return size, offset


def _check_data(cursor: Cursor, header: Header, data_bytes: int) -> None:
    start = _pad(cursor.offset, header.alignment)
    if header.tensor_count and start + data_bytes > cursor.size:
        cursor.fail(
            f"the tensors end at byte {start + data_bytes} and the file at byte {cursor.size}: it is incomplete",
            offset=cursor.size,
        )


def _pad(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment
