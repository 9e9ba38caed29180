"""What the store is told of a model, and other programs' files that need no download."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from llcuda import settings
from llcuda.models import hub_cache
from llcuda.store import ModelFacts

if TYPE_CHECKING:
    from pathlib import Path

    from llcuda.gguf import GGUFInfo


def describe_facts(info: GGUFInfo, *, source: str | None) -> ModelFacts:
    """Return what the store keeps of a model."""
    licence = info.metadata.get("general.license")
    return ModelFacts(
        source=source, created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), architecture=info.architecture,
        quantisation=info.quantisation, parameters=str(info.parameters),
        licence=licence if isinstance(licence, str) else None,
    )  # fmt: skip


def find_elsewhere(digest: str) -> Path | None:
    """Return a file with this digest in the caches of the hub and of Ollama, which name their files by it."""
    hexadecimal = digest.partition(":")[2]
    ollama = settings.get_path("OLLAMA_MODELS") or settings.user_dir() / ".ollama" / "models"
    candidates = [ollama / "blobs" / f"sha256-{hexadecimal}", *hub_cache.find_blobs(hexadecimal)]
    return next((path for path in candidates if path.is_file()), None)
