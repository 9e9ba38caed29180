"""JSON schemas as other people's programs write them, by the program and what they are of."""

from __future__ import annotations

import json
from typing import Any

from tests.inputs.pydantic_schemas import make_pydantic_schemas
from tests.places import INPUTS

__all__ = ["make_corpus"]

_FILES = ("function_schemas.json", "generated_schemas.json", "openapi_schemas.json")
"""Written by the programs in tools/schemas, which say where they come from."""


def make_corpus() -> dict[str, dict[str, Any]]:
    """Return the schemas of bfcl, fastapi, pydantic, typescript and zod; the name of each begins with one of these."""
    corpus = make_pydantic_schemas()
    for name in _FILES:
        corpus |= json.loads((INPUTS / name).read_text(encoding="utf-8"))
    return corpus
