"""Models of random weights in the shape of real ones: 13.5 GB of them in seconds, to load and to measure with.

    python -m tests.made_models.synthetic_model FILE [--shape 7b] [--quantisation F16|Q4_K_M] [--scale 0.1]

Speed does not depend on what the weights say, as long as they are not all alike and nothing overflows. So one tile of
random blocks is made for every tensor type and width, and repeated; its length has no factor in common with a row's, so
that no two rows of a tensor are the same before the tile has come round. The weights' spread is 1/sqrt(width), as in a
fresh network, which keeps the activations near 1. Q4_K_M is written directly, with llama-quantize's choice of types.

A character of a prompt is one token, after one that opens it. The tokens that stand for bytes, and the special ones,
are never generated: their logits are 0. What is generated is " w12345".
"""

from __future__ import annotations

import argparse
import random
import struct
from dataclasses import dataclass, replace
from math import prod, sqrt
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING

from tests.made_models.gguf_builder import ARRAY, BOOL, F32, I32, STRING, U32, Model, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

_BLOCK = 256  # elements of a block of Q4_K and of Q6_K; F16 is counted in as many
_TILE_BLOCKS = 65_521  # a prime
_SPECIAL = ["<unk>", "<s>", "</s>"]
_SILENT = len(_SPECIAL) + 256
"""So many tokens, from the first, have no logit but 0."""
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
_TYPE_F32, _TYPE_F16, _TYPE_Q4_K, _TYPE_Q6_K = 0, 1, 12, 14
_FILE_TYPES = {"F16": 1, "Q4_K_M": 15}
_HEAD = 128
_Q4_K_SCALE = 8
_Q4_K_SPREAD = 4.61  # of the numbers from 0 to 15
_Q6_K_SCALE = 16
_Q6_K_SPREAD = 18.47  # of the numbers from 0 to 63


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a llama model; with ``experts`` it is a mixture of them."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    hidden: int
    vocabulary: int = 32_000
    context: int = 4096
    experts: int = 0
    experts_used: int = 2


SHAPES = {
    "7b": Shape(layers=32, width=4096, heads=32, kv_heads=32, hidden=11_008),
    "7b-gqa": Shape(layers=32, width=4096, heads=32, kv_heads=8, hidden=14_336),
    "1b-gqa": Shape(layers=16, width=2048, heads=16, kv_heads=4, hidden=8192),
    "moe": Shape(layers=16, width=2048, heads=16, kv_heads=4, hidden=4096, experts=4),
    "small": Shape(layers=2, width=256, heads=4, kv_heads=2, hidden=512, vocabulary=1024, context=512),
    "small-moe": Shape(layers=2, width=256, heads=4, kv_heads=2, hidden=512, vocabulary=1024, context=512, experts=4),
}


def scale_shape(shape: Shape, scale: float) -> Shape:
    """Return the shape with so many times its layers and its width; 1 leaves it alone."""
    width = _round(shape.width * scale, _BLOCK)
    heads = max(1, width // _HEAD)
    return replace(
        shape,
        layers=max(2, round(shape.layers * scale)),
        width=width,
        heads=heads,
        kv_heads=max(1, heads * shape.kv_heads // shape.heads),
        hidden=_round(shape.hidden * scale, _BLOCK),
    )


def write_model(path: Path, shape: Shape, *, quantisation: str = "F16") -> Path:
    """Write the model and return its path; ``quantisation`` is F16 or Q4_K_M."""
    model = Model(pairs=list(_pairs(shape, quantisation)), tensors=list(_tensors(shape, quantisation)))
    header = model.header()
    tiles = _Tiles(max(prod(tensor.shape) for tensor in model.tensors) // _BLOCK)
    with path.open("wb") as file:
        file.write(header + bytes(-len(header) % model.alignment))
        for tensor in model.tensors:
            tiles.write(file, tensor)
            file.write(bytes(-tensor.size % model.alignment))
    return path


def count_read_bytes(shape: Shape, *, quantisation: str) -> int:
    """Return the bytes of weights that one token's decoding reads: all but the embeddings and the idle experts."""
    return sum(
        tensor.size * shape.experts_used // shape.experts if "_exps" in str(tensor.name) else tensor.size
        for tensor in _tensors(shape, quantisation)
        if tensor.name != "token_embd.weight"
    )


def _round(value: float, step: int) -> int:
    return max(1, round(value / step)) * step


def _pairs(shape: Shape, quantisation: str) -> Iterator[tuple[str, int, object]]:
    yield "general.architecture", STRING, "llama"
    yield "general.name", STRING, "synthetic"
    yield "general.file_type", U32, _FILE_TYPES[quantisation]
    yield "general.quantization_version", U32, 2
    numbers = {
        "vocab_size": shape.vocabulary,
        "context_length": shape.context,
        "embedding_length": shape.width,
        "block_count": shape.layers,
        "feed_forward_length": shape.hidden,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads,
        "rope.dimension_count": shape.width // shape.heads,
    }
    experts = {"expert_count": shape.experts, "expert_used_count": shape.experts_used} if shape.experts else {}
    for name, value in {**numbers, **experts}.items():
        yield f"llama.{name}", U32, value
    yield "llama.attention.layer_norm_rms_epsilon", F32, 1e-5
    yield from _tokenizer(shape.vocabulary)


def _tokenizer(vocabulary: int) -> Iterator[tuple[str, int, object]]:
    words = [f"\u2581w{number}" for number in range(_SILENT, vocabulary)]
    kinds = [_UNKNOWN, _CONTROL, _CONTROL, *[_BYTE] * 256, *[_NORMAL] * len(words)]
    yield "tokenizer.ggml.model", STRING, "llama"
    yield "tokenizer.ggml.tokens", ARRAY, (STRING, [*_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *words])
    yield "tokenizer.ggml.scores", ARRAY, (F32, [0.0] * vocabulary)
    yield "tokenizer.ggml.token_type", ARRAY, (I32, kinds)
    yield "tokenizer.ggml.bos_token_id", U32, 1
    yield "tokenizer.ggml.eos_token_id", U32, 2
    yield "tokenizer.ggml.add_bos_token", BOOL, True
    yield "tokenizer.ggml.add_space_prefix", BOOL, False


def _tensors(shape: Shape, quantisation: str) -> Iterator[Tensor]:
    """Yield the tensors in the file's order, each with the type that llama-quantize would choose."""
    usual, better = (_TYPE_F16, _TYPE_F16) if quantisation == "F16" else (_TYPE_Q4_K, _TYPE_Q6_K)
    yield Tensor("token_embd.weight", (shape.width, shape.vocabulary), usual)
    for layer in range(shape.layers):
        special = better if _has_more_bits(layer, shape.layers) else usual
        for name, sizes in _layer_sizes(shape):
            kind = special if name.startswith(("attn_v", "ffn_down")) else usual
            kind = _TYPE_F32 if len(sizes) == 1 or name == "ffn_gate_inp" else kind
            yield Tensor(f"blk.{layer}.{name}.weight", sizes, kind)
    yield Tensor("output_norm.weight", (shape.width,), _TYPE_F32)
    yield Tensor("output.weight", (shape.width, shape.vocabulary), better)


def _has_more_bits(layer: int, layers: int) -> bool:
    """Tell whether Q4_K_M spends six bits on this layer's values and ffn_down: llama.cpp's rule."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def _layer_sizes(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, hidden = shape.width, shape.hidden
    kv_width = width // shape.heads * shape.kv_heads
    yield "attn_norm", (width,)
    yield "attn_q", (width, width)
    yield "attn_k", (width, kv_width)
    yield "attn_v", (width, kv_width)
    yield "attn_output", (width, width)
    yield "ffn_norm", (width,)
    suffix, experts = ("_exps", (shape.experts,)) if shape.experts else ("", ())
    if shape.experts:
        yield "ffn_gate_inp", (width, shape.experts)
    yield f"ffn_gate{suffix}", (width, hidden, *experts)
    yield f"ffn_up{suffix}", (width, hidden, *experts)
    yield f"ffn_down{suffix}", (hidden, width, *experts)


class _Tiles:
    """Random weights that are made once and written many times."""

    def __init__(self, longest: int) -> None:
        """Prepare tiles for tensors of at most ``longest`` blocks."""
        self._blocks = max(1, min(_TILE_BLOCKS, longest))
        self._chance = random.Random(0)
        self._made: dict[tuple[int, int], bytes] = {}

    def write(self, file: BinaryIO, tensor: Tensor) -> None:
        """Write the tensor's data: ones for a norm, zeros for the logits that must not win, and random weights."""
        if tensor.kind == _TYPE_F32:
            file.write(self._norm_or_router(tensor))
            return
        tile = memoryview(self._find(tensor.kind, tensor.shape[0]))
        silent = tensor.size * _SILENT // tensor.shape[1] if tensor.name == "output.weight" else 0
        file.write(bytes(silent))
        start = self._chance.randrange(self._blocks) * (len(tile) // self._blocks)
        _repeat(file, tile, tensor.size - silent, start=start)

    def _norm_or_router(self, tensor: Tensor) -> bytes:
        count = prod(tensor.shape)
        if len(tensor.shape) == 1:
            return struct.pack(f"<{count}f", *[1.0] * count)
        spread = 1 / sqrt(tensor.shape[0])
        return struct.pack(f"<{count}f", *(self._chance.gauss(0, spread) for _ in range(count)))

    def _find(self, kind: int, width: int) -> bytes:
        if (kind, width) not in self._made:
            make = {_TYPE_F16: make_f16, _TYPE_Q4_K: make_q4_k, _TYPE_Q6_K: make_q6_k}[kind]
            self._made[kind, width] = make(self._blocks, spread=1 / sqrt(width), chance=self._chance)
        return self._made[kind, width]


def _repeat(file: BinaryIO, tile: memoryview, size: int, *, start: int) -> None:
    while size > 0:
        size -= file.write(tile[start : start + size])
        start = 0


def make_f16(blocks: int, *, spread: float, chance: random.Random) -> bytes:
    """Return blocks of 256 weights: the upper byte of each out of a table of the normal distribution, the lower any."""
    table = bytes(_f16(NormalDist(0, spread).inv_cdf((step + 0.5) / 256))[1] for step in range(256))
    data = bytearray(chance.randbytes(blocks * _BLOCK * 2))
    data[1::2] = data[1::2].translate(table)
    return bytes(data)


def make_q4_k(blocks: int, *, spread: float, chance: random.Random) -> bytes:
    """Return blocks of 256 weights of 4 random bits each, spread evenly around 0."""
    step = spread / _Q4_K_SPREAD / _Q4_K_SCALE
    scales = bytes([_Q4_K_SCALE] * 8 + [_Q4_K_SCALE * 0x11] * 4)  # six bits each, those of the last four in nibbles
    return _with_fixed(blocks, {0: _f16(step), 2: _f16(step * 7.5), 4: scales}, size=144, chance=chance)


def make_q6_k(blocks: int, *, spread: float, chance: random.Random) -> bytes:
    """Return blocks of 256 weights of 6 random bits each, spread evenly around 0."""
    step = spread / _Q6_K_SPREAD / _Q6_K_SCALE
    return _with_fixed(blocks, {192: bytes([_Q6_K_SCALE] * 16), 208: _f16(step)}, size=210, chance=chance)


def _with_fixed(blocks: int, fixed: dict[int, bytes], *, size: int, chance: random.Random) -> bytes:
    data = bytearray(chance.randbytes(blocks * size))
    for offset, part in fixed.items():
        for place, byte in enumerate(part, offset):
            data[place::size] = bytes([byte]) * blocks
    return bytes(data)


def _f16(value: float) -> bytes:
    return struct.pack("<e", value)


def main() -> None:
    """Write one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--quantisation", choices=_FILE_TYPES, default="F16")
    parser.add_argument("--scale", type=float, default=1.0)
    chosen = parser.parse_args()
    write_model(chosen.file, scale_shape(SHAPES[chosen.shape], chosen.scale), quantisation=chosen.quantisation)


if __name__ == "__main__":
    main()
