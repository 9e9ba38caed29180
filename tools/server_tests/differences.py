"""Why what passes at a bare llama-server need not pass through the gateway, by the names of the tests."""

from __future__ import annotations

DIFFERENCES: dict[str, str] = {}
