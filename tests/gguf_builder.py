"""GGUF files, byte by byte, so that a test can make any of them wrong in one place."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from math import prod

from llcuda.gguf.tensor_types import SCALARS, TENSOR_TYPES

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)

Value = tuple[int, object]


def pack_string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def pack_value(kind: int, value: object) -> bytes:
    if kind == STRING:
        assert isinstance(value, str | bytes)
        return pack_string(value)
    return struct.pack("<" + SCALARS[kind], value)


def pack_array(kind: int, values: list[object]) -> bytes:
    return struct.pack("<IQ", kind, len(values)) + b"".join(pack_value(kind, value) for value in values)


def pack_pair(key: str | bytes, kind: int, value: object) -> bytes:
    """``value`` of an array is ``(kind of its elements, list)``, or its bytes as they are to stand in the file."""
    if isinstance(value, bytes) and kind == ARRAY:
        body = value
    elif kind == ARRAY:
        assert isinstance(value, tuple)
        body = pack_array(*value)
    else:
        body = pack_value(kind, value)
    return pack_string(key) + struct.pack("<I", kind) + body


@dataclass
class Tensor:
    name: str | bytes
    shape: tuple[int, ...]
    kind: int = 0
    offset: int | None = None

    @property
    def size(self) -> int:
        stored = TENSOR_TYPES[self.kind]
        return prod(self.shape) // stored.block_elements * stored.block_bytes


@dataclass
class Model:
    """A small model that is valid until something in it is changed."""

    version: int = 3
    magic: bytes = b"GGUF"
    pairs: list[tuple[str | bytes, int, object]] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    alignment: int = 32
    key_count: int | None = None
    tensor_count: int | None = None

    def header(self) -> bytes:
        keys = len(self.pairs) if self.key_count is None else self.key_count
        tensors = len(self.tensors) if self.tensor_count is None else self.tensor_count
        head = self.magic + struct.pack("<IQQ", self.version, tensors, keys)
        return head + b"".join(pack_pair(*pair) for pair in self.pairs) + self._tensor_infos()

    def _tensor_infos(self) -> bytes:
        infos, end = [], 0
        for tensor in self.tensors:
            offset = end if tensor.offset is None else tensor.offset
            shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
            infos.append(pack_string(tensor.name) + shape + struct.pack("<IQ", tensor.kind, offset))
            end += self._pad(tensor.size)
        return b"".join(infos)

    def _pad(self, size: int) -> int:
        return -(-size // self.alignment) * self.alignment

    def build(self) -> bytes:
        header = self.header()
        data = sum(self._pad(tensor.size) for tensor in self.tensors)
        return header + bytes(self._pad(len(header)) - len(header) + data)


def small_model(*, version: int = 3) -> Model:
    """Return a llama of two tensors with everything that the reader looks for."""
    return Model(
        version=version,
        pairs=[
            ("general.architecture", STRING, "llama"),
            ("general.name", STRING, "Small"),
            ("general.file_type", U32, 15),
            ("llama.block_count", U32, 2),
            ("llama.context_length", U32, 4096),
            ("llama.embedding_length", U32, 256),
            ("llama.rope.freq_base", F32, 10000.0),
            ("tokenizer.ggml.tokens", ARRAY, (STRING, ["<s>", "</s>", "a", "", "béé"])),
            ("tokenizer.ggml.scores", ARRAY, (F32, [0.0, 1.0, 2.0, 3.0, 4.0])),
            ("tokenizer.ggml.add_bos_token", BOOL, True),
            ("tokenizer.chat_template", STRING, "{{ messages }}"),
        ],
        tensors=[Tensor("token_embd.weight", (256, 5), 12), Tensor("output_norm.weight", (256,), 0)],
    )
