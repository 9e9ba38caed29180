"""One address in front of several llama-servers of the same model, and of several models."""

from __future__ import annotations

__all__: list[str] = []
