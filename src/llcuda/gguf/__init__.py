"""Read what a GGUF model is, from its header alone and without trusting a byte of it.

It is our own because a file is untrusted input: ``benchmarks/gguf_fuzz.py`` holds a million mutated headers to 50 ms
and 64 MB each.
"""

from __future__ import annotations

from llcuda.gguf.header import GGUFInfo, combine_parts, parse_gguf, read_gguf, require_magic
from llcuda.gguf.memory import CACHE_TYPES, MemoryEstimate, can_quantise_cache, estimate_memory

__all__ = [
    "CACHE_TYPES",
    "GGUFInfo",
    "MemoryEstimate",
    "can_quantise_cache",
    "combine_parts",
    "estimate_memory",
    "parse_gguf",
    "read_gguf",
    "require_magic",
]
