"""The machine that figures were measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["describe_machine", "format_machine"]


def describe_machine() -> dict[str, Any]:
    """Return its processor, how many cores there are, the load of the last minute, and Python's version."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    return {"cpu": model, "cores": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version()}


def format_machine(machine: Mapping[str, Any]) -> str:
    """Return a line that says so."""
    return f"{machine['cpu']}, {machine['cores']} cores, load {machine['load']:.1f}, Python {machine['python']}"
