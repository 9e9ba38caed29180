"""A reranker of a few kilobytes whose weights are set by hand: two texts score the higher the more words they share.

Every word is a vector of +1 and -1, at right angles to all others, so there can be 31. Attention looks at all words
alike: what it adds to the first token is the mean of query and document together, which is the longer the more often a
word comes. The layer after it squares that, more or less, and adds it up. The other half of a vector is the same for
all tokens, for the norms to have something to hold on to.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from tests.made_models.gguf_builder import ARRAY, BOOL, F32, I32, STRING, U32, Model, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = ["write_tiny_reranker"]

_HALF = 32
_WIDTH = 2 * _HALF
_CONTEXT = 256
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_NORMAL, _CONTROL = 1, 3
_RANK = 4  # llama.cpp's number for this kind of pooling
_STEEP = 2.0
_UP, _DOWN = _HALF, _HALF + 1  # where the sum is added and taken off, so that the mean stays


def write_tiny_reranker(path: Path, words: Iterable[str]) -> Path:
    """Write the model, which knows these words, and return its path."""
    tokens = [*_SPECIAL, *(f"\u2581{word}" for word in words)]
    tensors = list(_tensors(len(tokens)))
    table = [Tensor(name, shape) for name, shape, _ in tensors]
    model = Model(pairs=list(_pairs(tokens)), tensors=table)
    header = model.header()
    with path.open("wb") as file:
        file.write(header + bytes(-len(header) % model.alignment))
        for _, _, values in tensors:
            data = array("f", values).tobytes()
            file.write(data + bytes(-len(data) % model.alignment))
    return path


def _pairs(tokens: list[str]) -> Iterator[tuple[str, int, object]]:
    yield "general.architecture", STRING, "bert"
    yield "general.name", STRING, "tiny-reranker"
    numbers = {
        "context_length": _CONTEXT,
        "embedding_length": _WIDTH,
        "block_count": 1,
        "feed_forward_length": _WIDTH,
        "attention.head_count": 1,
        "pooling_type": _RANK,
    }
    for name, value in numbers.items():
        yield f"bert.{name}", U32, value
    yield "bert.attention.layer_norm_epsilon", F32, 1e-12
    yield "bert.attention.causal", BOOL, False
    kinds = [_CONTROL] * len(_SPECIAL) + [_NORMAL] * (len(tokens) - len(_SPECIAL))
    yield "tokenizer.ggml.model", STRING, "bert"
    yield "tokenizer.ggml.tokens", ARRAY, (STRING, tokens)
    yield "tokenizer.ggml.token_type", ARRAY, (I32, kinds)
    yield "tokenizer.ggml.token_type_count", U32, 1
    for place, name in enumerate(("padding", "unknown", "bos", "seperator", "mask")):  # the format's own spelling
        yield f"tokenizer.ggml.{name}_token_id", U32, place


def _tensors(vocabulary: int) -> Iterator[tuple[str, tuple[int, ...], list[float]]]:
    ground = [2.0, -2.0] * (_HALF // 2)
    rows = [[0.0] * _HALF + ground for _ in _SPECIAL]
    rows += [_direct(number) + ground for number in range(1, vocabulary - len(_SPECIAL) + 1)]
    yield "token_embd.weight", (_WIDTH, vocabulary), [value for row in rows for value in row]
    yield "token_types.weight", (_WIDTH, 1), [0.0] * _WIDTH
    yield "position_embd.weight", (_WIDTH, _CONTEXT), [0.0] * (_WIDTH * _CONTEXT)
    for name in ("token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm"):
        yield f"{name}.weight", (_WIDTH,), [1.0] * _WIDTH
        yield f"{name}.bias", (_WIDTH,), [0.0] * _WIDTH
    for name, size in {"q": 0.0, "k": 0.0, "v": 1.0, "output": 1.0}.items():
        yield f"blk.0.attn_{name}.weight", (_WIDTH, _WIDTH), _diagonal(size)
    yield "blk.0.ffn_up.weight", (_WIDTH, _WIDTH), _both_signs()
    yield "blk.0.ffn_down.weight", (_WIDTH, _WIDTH), _sum()
    yield "cls.output.weight", (_WIDTH, 1), [float(place == _UP) - float(place == _DOWN) for place in range(_WIDTH)]
    yield "cls.output.bias", (1,), [0.0]


def _direct(number: int) -> list[float]:
    """Return a row of Hadamard's matrix: any two are at right angles, and all but row 0 add up to nought."""
    assert 0 < number < _HALF
    return [-1.0 if (number & place).bit_count() % 2 else 1.0 for place in range(_HALF)]


def _diagonal(size: float) -> list[float]:
    return [size * (row == column) for row in range(_WIDTH) for column in range(_WIDTH)]


def _both_signs() -> list[float]:
    """Take every number of a word's half as it is, and once more with the other sign."""
    signs = [_STEEP] * _HALF + [-_STEEP] * _HALF
    return [sign * (row % _HALF == column) for row, sign in enumerate(signs) for column in range(_WIDTH)]


def _sum() -> list[float]:
    return [float(row == _UP) - float(row == _DOWN) for row in range(_WIDTH) for _ in range(_WIDTH)]
