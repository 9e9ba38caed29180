"""Models by name: on this disk if they are here, from the hub or an address if not."""

from __future__ import annotations

from llcuda.models.listing import (
    ListedModel,
    estimate_model,
    inspect_model,
    list_models,
    pull_model,
    remove_model,
)
from llcuda.models.quantise import quantise_model
from llcuda.models.registry import get_draft
from llcuda.models.resolve import ModelFile, resolve_model
from llcuda.models.storing import lock_model, push_model, put_model, tag_model

__all__ = [
    "ListedModel",
    "ModelFile",
    "estimate_model",
    "get_draft",
    "inspect_model",
    "list_models",
    "lock_model",
    "pull_model",
    "push_model",
    "put_model",
    "quantise_model",
    "remove_model",
    "resolve_model",
    "tag_model",
]
