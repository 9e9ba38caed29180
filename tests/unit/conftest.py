"""How Hypothesis tries examples: none of them fails for being slow, because the machine may be."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
