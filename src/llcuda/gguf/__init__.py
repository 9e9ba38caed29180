"""Read what a GGUF model is, from its header alone and without trusting a byte of it."""

from __future__ import annotations

from llcuda.gguf.info import GGUFInfo, combine_parts, parse_gguf, read_gguf

__all__ = ["GGUFInfo", "combine_parts", "parse_gguf", "read_gguf"]
