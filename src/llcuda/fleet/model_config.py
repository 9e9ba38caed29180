"""How one model is served: from what, by how many llama-servers, and on what."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["ModelConfig"]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One model that is served, and how: the same options as :meth:`llcuda.InferenceEngine.load_model` takes."""

    name: str
    """What requests call it."""
    model: str
    """What :func:`llcuda.models.resolve_model` finds it by."""
    workers: int = 1
    """The number of llama-servers."""
    slots: int = 4
    """Requests that one llama-server answers at the same time; its ``--parallel``."""
    device: str = "auto"
    """``auto``, ``cuda``, ``cuda:N`` or ``cpu``; ``auto`` and ``cuda`` spread several workers over the GPUs."""
    ctx_size: int | None = None
    """Tokens of context of each slot."""
    gpu_layers: int | None = None
    threads: int | None = None
    """CPU threads of each llama-server; None shares the cores among the workers."""
    on_demand: bool = False
    """Whether it is started with its first request, not with the gateway."""
    idle_timeout: float | None = None
    """Seconds without a request after which it is unloaded; None keeps it."""
    server_options: dict[str, Any] = field(default_factory=dict)
