"""Keep files by their digest, and place every file whole or not at all."""

from __future__ import annotations

from llcuda.store.atomic_files import place_file
from llcuda.store.blobs import Blobs, Taken, hold_files
from llcuda.store.digests import get_digest, hash_file, parse_digest, verify_file
from llcuda.store.layout import Layer, ModelFacts
from llcuda.store.model_store import Collected, ModelStore, StoredModel, Usage

__all__ = [
    "Blobs", "Collected", "Layer", "ModelFacts", "ModelStore", "StoredModel", "Taken", "Usage", "get_digest",
    "hash_file", "hold_files", "parse_digest", "place_file", "verify_file",
]  # fmt: skip
