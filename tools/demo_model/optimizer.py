"""README: Muon for the matrices (orthogonalised momentum), in float32 because the CPUs here have no fast bfloat16."""

# mypy: disallow-untyped-decorators=False

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

# The quintic of Keller Jordan's Muon (2024).
_COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
_ITERATIONS: Final = 3


def orthogonalise(update: Tensor) -> Tensor:
    """Return the nearest (semi-)orthogonal matrices to a stack (n, rows, columns), approximately."""
    a, b, c = _COEFFICIENTS
    wide = update.shape[-2] <= update.shape[-1]
    x = update if wide else update.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


class Muon:
    """Update matrices by orthogonalised Nesterov momentum; equal shapes are done in one batch."""

    def __init__(self, weights: Iterable[nn.Parameter], *, momentum: float = 0.95, weight_decay: float = 0.05) -> None:
        """Group the matrices by shape."""
        self.momentum, self.weight_decay = momentum, weight_decay
        self.groups: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for weight in weights:
            self.groups.setdefault(tuple(weight.shape), []).append(weight)
        self.buffers = {
            shape: torch.zeros(len(group), *shape, device=group[0].device) for shape, group in self.groups.items()
        }

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Apply one update from the gradients."""
        for shape, group in self.groups.items():
            gradient = torch.stack([weight.grad for weight in group if weight.grad is not None])
            buffer = self.buffers[shape].lerp_(gradient, 1 - self.momentum)
            update = orthogonalise(gradient.lerp(buffer, self.momentum))
            scale = learning_rate * max(1.0, shape[0] / shape[1]) ** 0.5
            for weight, change in zip(group, update, strict=True):
                weight.mul_(1 - learning_rate * self.weight_decay).sub_(change, alpha=scale)
