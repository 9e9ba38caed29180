"""Read a GGUF header: keys with their values, then the list of tensors. Nothing in it is believed.

Every count, length and offset is compared with the size of the file before anything is read or allocated for it. What
llama.cpp refuses (``gguf.cpp``: arrays inside arrays, duplicates, dimensions that overflow, tensors that do not lie one
behind the other) is refused here with the place in the file.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from llcuda.errors import ModelFormatError
from llcuda.gguf.cursor import Cursor
from llcuda.gguf.tensor_types import ARRAY, FILE_TYPES, SCALARS, STRING, TENSOR_TYPES, UINT32

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

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

_GUESSED = 1024
"""The bit of ``general.file_type`` that says llama.cpp guessed it."""
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
class _Header:
    """What was found so far. ``lengths`` has the number of elements of every array, ``arrays`` the short ones."""

    metadata: dict[str, Scalar] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    arrays: dict[str, tuple[Scalar, ...]] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    strings: int = 0
    alignment: int = DEFAULT_ALIGNMENT
    tensors: dict[str, TensorFacts] = field(default_factory=dict)
    elements_by_type: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GGUFInfo:
    """A model as its header describes it. None is what the header does not say."""

    version: int
    architecture: str
    name: str | None
    parameters: int
    layers: int | None
    context_length: int | None
    embedding_length: int | None
    quantisation: str
    has_chat_template: bool
    vocabulary_size: int | None
    tensor_count: int
    tensor_bytes: int
    file_bytes: int
    split: tuple[int, int] | None
    """The part's index from 0 and the number of parts, for a model in several files."""
    alignment: int
    metadata: dict[str, Scalar] = field(hash=False, repr=False)
    """Every key with a single value; strings of over 1,024 characters and arrays are left out."""
    arrays: dict[str, tuple[Scalar, ...]] = field(default_factory=dict, hash=False, repr=False)
    """Every array of up to 1,024 numbers: what a model has one of for each layer."""
    tensors: dict[str, TensorFacts] = field(default_factory=dict, hash=False, repr=False)
    """Every tensor by its name."""


def read_gguf(path: Path | str) -> GGUFInfo:
    """Read the header of the GGUF file at ``path``.

    Takes under 50 ms and 64 MB for any file. Raises ModelFormatError with the byte offset of what is wrong, and
    OSError if the file cannot be opened.
    """
    # Without O_NONBLOCK, opening a named pipe would wait for a writer for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ModelFormatError(path, "it is not a regular file", hint="Give the path of a .gguf file.")
        cursor = Cursor(lambda offset, count: _read_all(descriptor, offset, count), status.st_size, name=str(path))
        return read_header(cursor)
    finally:
        os.close(descriptor)


def _read_all(descriptor: int, offset: int, count: int) -> bytes:
    data = os.pread(descriptor, count, offset)
    while len(data) < count and (more := os.pread(descriptor, count - len(data), offset + len(data))):
        data += more
    return data


def parse_gguf(data: bytes, *, name: str = "<bytes>") -> GGUFInfo:
    """Read the header of a GGUF file that is in memory.

    Raises ModelFormatError with the byte offset of what is wrong.
    """
    cursor = Cursor(lambda offset, count: data[offset : offset + count], len(data), name=name)
    return read_header(cursor)


def combine_parts(parts: Sequence[GGUFInfo]) -> GGUFInfo:
    """Return the first part's description with the sizes of all ``parts`` added up."""
    return replace(
        parts[0],
        parameters=sum(part.parameters for part in parts),
        tensor_count=sum(part.tensor_count for part in parts),
        tensor_bytes=sum(part.tensor_bytes for part in parts),
        file_bytes=sum(part.file_bytes for part in parts),
        tensors={name: tensor for part in parts for name, tensor in part.tensors.items()},
    )


def read_header(cursor: Cursor) -> GGUFInfo:
    """Read the header that ``cursor`` stands before.

    Raises ModelFormatError with the byte offset of what is wrong.
    """
    _read_magic(cursor)
    header, version = _Header(), _read_version(cursor)
    tensors = _read_count(cursor, "tensors", smallest=_MIN_TENSOR_BYTES, limit=MAX_TENSORS)
    keys = _read_count(cursor, "keys", smallest=_MIN_KEY_BYTES, limit=MAX_KEYS)
    for _ in range(keys):
        _read_pair(cursor, header)
    _read_tensors(cursor, header, tensors)
    return _describe(cursor, header, version)


def _describe(cursor: Cursor, header: _Header, version: int) -> GGUFInfo:
    architecture = header.metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        cursor.fail("general.architecture is missing")
    name = header.metadata.get("general.name")
    return GGUFInfo(
        version=version,
        architecture=architecture,
        name=name if isinstance(name, str) else None,
        parameters=sum(header.elements_by_type.values()),
        layers=_number(header, f"{architecture}.block_count"),
        context_length=_number(header, f"{architecture}.context_length"),
        embedding_length=_number(header, f"{architecture}.embedding_length"),
        quantisation=_quantisation(header),
        has_chat_template="tokenizer.chat_template" in header.keys,
        vocabulary_size=header.lengths.get("tokenizer.ggml.tokens") or _number(header, f"{architecture}.vocab_size"),
        tensor_count=len(header.tensors),
        tensor_bytes=sum(tensor.bytes for tensor in header.tensors.values()),
        file_bytes=cursor.size,
        split=_split(header),
        alignment=header.alignment,
        metadata=header.metadata,
        arrays=header.arrays,
        tensors=header.tensors,
    )


def _number(header: _Header, key: str) -> int | None:
    value = header.metadata.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _quantisation(header: _Header) -> str:
    """Return the file type's name, or that of the tensor type most elements have."""
    stated = _number(header, "general.file_type")
    if stated is not None and (name := FILE_TYPES.get(stated & ~_GUESSED)):
        return name
    counts = header.elements_by_type
    return max(counts, key=counts.__getitem__) if counts else "unknown"


def _split(header: _Header) -> tuple[int, int] | None:
    index, count = _number(header, "split.no"), _number(header, "split.count")
    return (index, count) if index is not None and count is not None and count > 1 else None


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


def _read_pair(cursor: Cursor, header: _Header) -> None:
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


def _read_array(cursor: Cursor, header: _Header, key: str) -> int:
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


def _read_tensors(cursor: Cursor, header: _Header, count: int) -> None:
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
    _check_data(cursor, header, last_end)


def _read_tensor(cursor: Cursor, header: _Header, name: str) -> tuple[int, int]:
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


def _check_data(cursor: Cursor, header: _Header, data_bytes: int) -> None:
    start = _pad(cursor.offset, header.alignment)
    if header.tensors and start + data_bytes > cursor.size:
        cursor.fail(
            f"the tensors end at byte {start + data_bytes} and the file at byte {cursor.size}: it is incomplete",
            offset=cursor.size,
        )


def _pad(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment
