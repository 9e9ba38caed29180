"""Where things lie: the repository, its documentation, and what the tests read."""

from __future__ import annotations

from pathlib import Path

__all__ = ["DATA", "DOCS", "INPUTS", "ROOT"]

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
DATA, INPUTS = ROOT / "tests" / "data", ROOT / "tests" / "inputs"
