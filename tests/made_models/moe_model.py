"""Tiny models of other kinds, with random weights: with experts, recurrent, and a projector for the tiny model."""

from __future__ import annotations

import random
import struct
from array import array
from typing import TYPE_CHECKING

from tests.made_models.tiny_model import (
    CONTEXT,
    F32,
    HEADS,
    HIDDEN,
    STRING,
    TOKENS,
    U32,
    WIDTH,
    _array,
    _pad,
    _pair,
    _text,
    _tokenizer,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

EXPERTS_USED = 2
STATE, KERNEL, RANK = 4, 4, 2
BOOL = 7
IMAGE, PATCH, SHUFFLE = 32, 8, 2

Shapes = dict[str, tuple[int, ...]]


def write_moe_model(path: Path, *, layers: int = 1, experts: int = 4) -> Path:
    """Write a llama of so many layers and experts, two of them in use for a token, and return its path."""
    numbers = {
        "context_length": CONTEXT,
        "embedding_length": WIDTH,
        "block_count": layers,
        "feed_forward_length": HIDDEN,
        "attention.head_count": HEADS,
        "attention.head_count_kv": HEADS,
        "rope.dimension_count": WIDTH // HEADS,
        "expert_count": experts,
        "expert_used_count": EXPERTS_USED,
    }
    shapes = _ends()
    for layer in range(layers):
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in _moe_block(experts).items()}
    return _write(path, _describe("llama", numbers), shapes)


def write_recurrent_model(path: Path) -> Path:
    """Write a mamba, which has a state in place of a KV cache, and return its path."""
    inner = 2 * WIDTH
    numbers = {
        "context_length": CONTEXT,
        "embedding_length": WIDTH,
        "feed_forward_length": 0,
        "attention.head_count": 0,
        "block_count": 1,
        "ssm.conv_kernel": KERNEL,
        "ssm.inner_size": inner,
        "ssm.state_size": STATE,
        "ssm.time_step_rank": RANK,
    }
    block: Shapes = {
        "attn_norm.weight": (WIDTH,),
        "ssm_in.weight": (2 * inner, WIDTH),
        "ssm_conv1d.weight": (inner, KERNEL),
        "ssm_conv1d.bias": (inner,),
        "ssm_x.weight": (RANK + 2 * STATE, inner),
        "ssm_dt.weight": (inner, RANK),
        "ssm_dt.bias": (inner,),
        "ssm_a": (inner, STATE),
        "ssm_d": (inner,),
        "ssm_out.weight": (WIDTH, inner),
    }
    shapes = {**_ends(), **{f"blk.0.{name}": shape for name, shape in block.items()}}
    return _write(path, _describe("mamba", numbers), shapes)


def write_projector(path: Path) -> Path:
    """Write a vision projector that fits the tiny model's width, and return its path."""
    numbers = {
        "image_size": IMAGE,
        "patch_size": PATCH,
        "embedding_length": WIDTH,
        "feed_forward_length": HIDDEN,
        "block_count": 1,
        "projection_dim": WIDTH,
        "attention.head_count": HEADS,
        "projector.scale_factor": SHUFFLE,
    }
    pairs = [
        _pair("general.architecture", STRING, "clip"),
        _flag("clip.has_vision_encoder"),
        _flag("clip.use_gelu"),
        _pair("clip.projector_type", STRING, "idefics3"),
        *(_pair(f"clip.vision.{name}", U32, value) for name, value in numbers.items()),
        _pair("clip.vision.attention.layer_norm_epsilon", F32, 1e-5),
        *(_array(f"clip.vision.image_{name}", F32, [0.5, 0.5, 0.5]) for name in ("mean", "std")),
    ]
    return _write(path, pairs, _projector_shapes())


def _describe(architecture: str, numbers: Mapping[str, int]) -> list[bytes]:
    return [
        _pair("general.architecture", STRING, architecture),
        *(_pair(f"{architecture}.{name}", U32, value) for name, value in numbers.items()),
        _pair(f"{architecture}.attention.layer_norm_rms_epsilon", F32, 1e-5),
        *_tokenizer(),
    ]


def _moe_block(experts: int) -> Shapes:
    return {
        **{f"attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")},
        **{f"{part}_norm": (WIDTH,) for part in ("attn", "ffn")},
        **{f"ffn_{part}_exps": (experts, HIDDEN, WIDTH) for part in ("gate", "up")},
        "ffn_down_exps": (experts, WIDTH, HIDDEN),
        "ffn_gate_inp": (experts, WIDTH),
    }


def _projector_shapes() -> Shapes:
    shapes: Shapes = {
        "v.patch_embd.weight": (WIDTH, 3, PATCH, PATCH),
        "v.patch_embd.bias": (WIDTH,),
        "v.position_embd.weight": ((IMAGE // PATCH) ** 2, WIDTH),
        "mm.model.fc.weight": (WIDTH, WIDTH * SHUFFLE * SHUFFLE),
    }
    sizes = {"attn_q": (WIDTH, WIDTH), "attn_k": (WIDTH, WIDTH), "attn_v": (WIDTH, WIDTH), "attn_out": (WIDTH, WIDTH)}
    for name, shape in {**sizes, "ffn_up": (HIDDEN, WIDTH), "ffn_down": (WIDTH, HIDDEN)}.items():
        shapes |= {f"v.blk.0.{name}.weight": shape, f"v.blk.0.{name}.bias": shape[:1]}
    for name in ("v.blk.0.ln1", "v.blk.0.ln2", "v.post_ln"):
        shapes |= {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}
    return shapes


def _ends() -> Shapes:
    size = (len(TOKENS), WIDTH)
    return {"token_embd.weight": size, "output_norm.weight": (WIDTH,), "output.weight": size}


def _flag(key: str) -> bytes:
    return _text(key) + struct.pack("<I?", BOOL, True)


def _write(path: Path, pairs: Sequence[bytes], shapes: Mapping[str, tuple[int, ...]]) -> Path:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(pairs)) + b"".join(pairs)
    table, data = b"", b""
    for name, shape, values in _fill(shapes):
        sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        table += _text(name) + sizes + struct.pack("<IQ", 0, len(data))
        data += _pad(values.tobytes())
    path.write_bytes(_pad(head + table) + data)
    return path


def _fill(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, tuple[int, ...], array[float]]]:
    chance = random.Random(0)
    for name, shape in shapes.items():
        count = 1
        for size in shape:
            count *= size
        yield name, shape, array("f", (chance.gauss(0, 0.02) for _ in range(count)))
