"""The one error that `prepare_binaries.py` shows: what is wrong, and what to do."""

from __future__ import annotations

__all__ = ["PreparationError"]


class PreparationError(Exception):
    """Raised with a message for a person; `prepare_binaries.py` prints it and exits with 1."""
