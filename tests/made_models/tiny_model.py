"""A tiny llama model with random weights: llama-server loads it in no time and answers nonsense quickly."""

from __future__ import annotations

import random
import struct
import sys
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH, LAYERS, HEADS, HIDDEN, CONTEXT = 32, 1, 2, 64, 256
ALIGNMENT = 32
TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]

# GGUF's numbers for the types of values and tokens.
U32, F32, STRING, ARRAY, I32 = 4, 6, 8, 9, 5
UNKNOWN, CONTROL, BYTE = 2, 3, 6


def write_tiny_model(path: Path, *, architecture: str = "llama", with_tokenizer: bool = True) -> Path:
    """Write the model and return its path."""
    path.write_bytes(build_tiny_model(architecture=architecture, with_tokenizer=with_tokenizer))
    return path


def build_tiny_model(*, architecture: str = "llama", with_tokenizer: bool = True) -> bytes:
    """Return the model's bytes: header, metadata, tensor table, tensors."""
    pairs = [*_settings(architecture), *(_tokenizer() if with_tokenizer else ())]
    tensors = list(_tensors())
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(pairs)
    table, data = b"", b""
    for name, shape, values in tensors:
        sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        table += _text(name) + sizes + struct.pack("<IQ", 0, len(data))
        data += _pad(values.tobytes())
    return _pad(head + table) + data


def _settings(architecture: str) -> Iterator[bytes]:
    yield _pair("general.architecture", STRING, architecture)
    yield _pair("general.name", STRING, "tiny")
    for name, value in {
        "context_length": CONTEXT,
        "embedding_length": WIDTH,
        "block_count": LAYERS,
        "feed_forward_length": HIDDEN,
        "attention.head_count": HEADS,
        "attention.head_count_kv": HEADS,
        "rope.dimension_count": WIDTH // HEADS,
    }.items():
        yield _pair(f"{architecture}.{name}", U32, value)
    yield _pair(f"{architecture}.attention.layer_norm_rms_epsilon", F32, 1e-5)


def _tokenizer() -> Iterator[bytes]:
    yield _pair("tokenizer.ggml.model", STRING, "llama")
    yield _array("tokenizer.ggml.tokens", STRING, TOKENS)
    yield _array("tokenizer.ggml.scores", F32, [0.0] * len(TOKENS))
    yield _array("tokenizer.ggml.token_type", I32, [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256)
    yield _pair("tokenizer.ggml.bos_token_id", U32, 1)
    yield _pair("tokenizer.ggml.eos_token_id", U32, 2)


def _tensors() -> Iterator[tuple[str, tuple[int, ...], array[float]]]:
    chance = random.Random(0)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd": (len(TOKENS), WIDTH),
        "output_norm": (WIDTH,),
        "output": (len(TOKENS), WIDTH),
    }
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        shapes |= {f"{block}.attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")}
        shapes |= {f"{block}.{part}_norm": (WIDTH,) for part in ("attn", "ffn")}
        shapes |= {f"{block}.ffn_{part}": (HIDDEN, WIDTH) for part in ("gate", "up")}
        shapes |= {f"{block}.ffn_down": (WIDTH, HIDDEN)}
    for name, shape in shapes.items():
        if len(shape) == 1:
            values = array("f", [1.0] * shape[0])
        else:
            values = array("f", (chance.gauss(0, 0.02) for _ in range(shape[0] * shape[1])))
        yield f"{name}.weight", shape, values


def _pair(key: str, kind: int, value: Any) -> bytes:
    return _text(key) + struct.pack("<I", kind) + _value(kind, value)


def _array(key: str, kind: int, values: list[Any]) -> bytes:
    items = b"".join(_value(kind, value) for value in values)
    return _text(key) + struct.pack("<IIQ", ARRAY, kind, len(values)) + items


def _value(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return _text(value)
    return struct.pack({U32: "<I", I32: "<i", F32: "<f"}[kind], value)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGNMENT)


if __name__ == "__main__":
    write_tiny_model(Path(sys.argv[1]))
