"""The check that a request to an address of the gateway's own has no field that nobody reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llcuda.gateway.refusals import RefusedError
from llcuda.options import suggest_names

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["check_known"]

_MAX_NAME_SHOWN = 100


def check_known(fields: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Raise RefusedError (400) for a field that is not ``known``."""
    for name in fields:
        if name not in known:
            shown = name[:_MAX_NAME_SHOWN]
            near = suggest_names(shown, known)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there is {', '.join(known)}"
            raise RefusedError(400, f"there is no field {shown!r} here; {hint}", code="unknown_field", param=shown)
