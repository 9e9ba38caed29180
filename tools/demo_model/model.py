"""README: the Llama architecture as llama.cpp computes it: RMSNorm, rotated pairs, SwiGLU, tied output."""

# mypy: disallow-subclassing-any=False

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

_EPSILON: Final = 1e-5
_ROPE_BASE: Final = 10_000.0


@dataclass(frozen=True, slots=True)
class Shape:
    """Give the sizes of a model; every row of every matrix is a multiple of 256 where K-quants need it."""

    layers: int
    vocabulary: int = 768
    embedding: int = 256
    feed_forward: int = 256
    heads: int = 4
    kv_heads: int = 2
    context: int = 1024

    @property
    def head(self) -> int:
        """Return the width of one attention head."""
        return self.embedding // self.heads


MAIN: Final = Shape(layers=3)
DRAFT: Final = Shape(layers=1, kv_heads=1)


class RMSNorm(nn.Module):
    """Scale a vector to unit root mean square, then by a learnt weight."""

    def __init__(self, width: int) -> None:
        """Start with weights of one."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` normalised along its last axis."""
        return functional.rms_norm(x, (x.shape[-1],), self.weight, _EPSILON)


def rope_table(shape: Shape, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosine and sine, each (length, head / 2)."""
    frequencies = _ROPE_BASE ** (-torch.arange(0, shape.head, 2, device=device).float() / shape.head)
    angles = torch.arange(length, device=device).float()[:, None] * frequencies
    return angles.cos(), angles.sin()


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate neighbouring pairs (2i, 2i+1), which is llama.cpp's own order: nothing is permuted at export."""
    cosine, sine = table
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cosine - odd * sine, even * sine + odd * cosine), dim=-1).flatten(-2)


class Block(nn.Module):
    """Attend, then feed forward, each behind a norm and added to the stream."""

    def __init__(self, shape: Shape) -> None:
        """Create the matrices under the names that GGUF gives them."""
        super().__init__()
        width, kv_width = shape.embedding, shape.head * shape.kv_heads
        self.shape = shape
        self.attn_norm = RMSNorm(width)
        self.attn_q = nn.Linear(width, width, bias=False)
        self.attn_k = nn.Linear(width, kv_width, bias=False)
        self.attn_v = nn.Linear(width, kv_width, bias=False)
        self.attn_output = nn.Linear(width, width, bias=False)
        self.ffn_norm = RMSNorm(width)
        self.ffn_gate = nn.Linear(width, shape.feed_forward, bias=False)
        self.ffn_up = nn.Linear(width, shape.feed_forward, bias=False)
        self.ffn_down = nn.Linear(shape.feed_forward, width, bias=False)

    def _split(self, x: Tensor, heads: int) -> Tensor:
        return x.unflatten(-1, (heads, self.shape.head)).transpose(1, 2)

    def forward(self, x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
        """Return the stream after this block, (batch, length, width)."""
        shape, normed = self.shape, self.attn_norm(x)
        query = rotate(self._split(self.attn_q(normed), shape.heads), table)
        key = rotate(self._split(self.attn_k(normed), shape.kv_heads), table)
        value = self._split(self.attn_v(normed), shape.kv_heads)
        repeat = shape.heads // shape.kv_heads
        key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.attn_output(mixed.transpose(1, 2).flatten(-2))
        normed = self.ffn_norm(x)
        return x + self.ffn_down(functional.silu(self.ffn_gate(normed)) * self.ffn_up(normed))


class Llama(nn.Module):
    """Predict the next token; the output matrix is the embedding."""

    def __init__(self, shape: Shape) -> None:
        """Draw small weights; matrices that write to the stream start at zero."""
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.vocabulary, shape.embedding)
        self.blk = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.output_norm = RMSNorm(shape.embedding)
        for name, weight in self.named_parameters():
            if weight.ndim > 1:
                nn.init.normal_(weight, std=0.05 if name.startswith("token") else shape.embedding**-0.5)
            if name.endswith(("attn_output.weight", "ffn_down.weight")):
                nn.init.zeros_(weight)

    def hidden(self, tokens: Tensor) -> Tensor:
        """Return the normed stream for (batch, length) tokens."""
        table = rope_table(self.shape, tokens.shape[1], tokens.device)
        x = self.token_embd(tokens)
        for block in self.blk:
            x = block(x, table)
        return self.output_norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return scores over the vocabulary for hidden states of any leading shape."""
        return hidden @ self.token_embd.weight.T
