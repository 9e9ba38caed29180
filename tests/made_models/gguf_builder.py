"""GGUF files, byte by byte, so that a test can make any of them wrong in one place."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from math import prod
from random import Random

from llcuda.gguf.tensor_types import SCALARS, TENSOR_TYPES

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)

GEMMA_TOKENS, GEMMA_MERGES = 262_144, 514_906
"""The largest vocabulary there is: Gemma 4's, with its merges."""


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


def array_body(count: int, body: bytes, kind: int = STRING) -> bytes:
    return struct.pack("<IQ", kind, count) + body


def random_strings(count: int, *, shortest: int, longest: int) -> bytes:
    """Return ``count`` strings as they stand in an array; one in 5,000 is as long as a run of spaces can be."""
    chance = Random(count)
    lengths = [chance.randint(shortest, longest) if chance.random() > 0.0002 else 90 for _ in range(count)]
    return b"".join(struct.pack("<Q", length) + chance.randbytes(length) for length in lengths)


def large_model() -> Model:
    """Return a model with Gemma 4's numbers of tokens, merges and tensors: a header of 16 MB."""
    model = small_model()
    model.pairs[7:9] = [
        (
            "tokenizer.ggml.tokens",
            ARRAY,
            array_body(GEMMA_TOKENS, random_strings(GEMMA_TOKENS, shortest=1, longest=14)),
        ),
        ("tokenizer.ggml.scores", ARRAY, array_body(GEMMA_TOKENS, bytes(4 * GEMMA_TOKENS), F32)),
        ("tokenizer.ggml.token_type", ARRAY, array_body(GEMMA_TOKENS, bytes(4 * GEMMA_TOKENS), I32)),
        (
            "tokenizer.ggml.merges",
            ARRAY,
            array_body(GEMMA_MERGES, random_strings(GEMMA_MERGES, shortest=3, longest=20)),
        ),
    ]
    model.tensors = [Tensor(f"blk.{number // 9}.tensor.{number % 9}.weight", (256, 8), 12) for number in range(700)]
    return model
