"""Keep files by their digest, and place every file whole or not at all."""

from __future__ import annotations

from llcuda.store.atomic_files import place_file
from llcuda.store.blobs import ModelStore
from llcuda.store.digests import get_digest, hash_file, parse_digest, verify_file

__all__ = ["ModelStore", "get_digest", "hash_file", "parse_digest", "place_file", "verify_file"]
