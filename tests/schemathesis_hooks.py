"""What test_schemathesis.py changes of the bodies that are made: 1.0 is no whole number for llama-server."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.hook
def map_body(_context: Any, body: Any) -> Any:
    """Write whole numbers without a point."""
    return _write_whole(body)


def _write_whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _write_whole(one) for name, one in value.items()}
    return [_write_whole(one) for one in value] if isinstance(value, list) else value
