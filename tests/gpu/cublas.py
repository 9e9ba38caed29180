"""An environment in which a child finds no cuBLAS, also where the machine has one."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_OPEN = "import ctypes, sys; ctypes.CDLL(sys.argv[1])"


def hide_library(name: str, environment: Mapping[str, str], *, folder: Path) -> dict[str, str]:
    """Return the environment without the library ``name``.

    The folders that hold it leave LD_LIBRARY_PATH. Where the system finds it even so, an empty file of its name in
    ``folder`` comes first: the loader stops at it ("file too short") and looks no further.
    """
    entries = environment.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    kept = [entry for entry in entries if entry and not os.path.exists(os.path.join(entry, name))]  # noqa: PTH110, PTH118 - an entry is text
    hidden = {**environment, "LD_LIBRARY_PATH": os.pathsep.join(kept)}
    if can_open(name, hidden):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
        hidden["LD_LIBRARY_PATH"] = os.pathsep.join([str(folder), *kept])
    return hidden


def can_open(name: str, environment: Mapping[str, str]) -> bool:
    """Tell whether a program that is started with this environment can open the library."""
    command = [sys.executable, "-I", "-S", "-c", _OPEN, name]
    return subprocess.run(command, env=dict(environment), capture_output=True, timeout=60, check=False).returncode == 0
