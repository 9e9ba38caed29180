"""The bodies of requests to the gateway's own addresses: small, and without a field that nobody reads."""

from __future__ import annotations

from typing import Any

from llcuda.gateway.fields import parse_body
from llcuda.gateway.refusals import RefusedError
from llcuda.options import suggest_names

__all__ = ["read_known"]

MAX_BYTES = 4096
_MAX_NAME_SHOWN = 100


def read_known(body: bytes, known: tuple[str, ...]) -> dict[str, Any]:
    """Return the fields of a body.

    Raises RefusedError (400) for a field that is not ``known``, and for more than 4096 bytes.
    """
    if len(body) > MAX_BYTES:
        raise RefusedError(400, f"the body has {len(body)} bytes, and may have {MAX_BYTES}", code="body_too_large")
    fields = parse_body(body)
    for name in fields:
        if name not in known:
            shown = name[:_MAX_NAME_SHOWN]
            near = suggest_names(shown, known)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there is {', '.join(known)}"
            raise RefusedError(400, f"there is no field {shown!r} here; {hint}", code="unknown_field", param=shown)
    return fields
