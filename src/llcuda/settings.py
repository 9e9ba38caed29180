"""Every environment variable that llcuda reads, each on demand, and the default places on disk."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llcuda.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_SECRETS = ("_TOKEN", "_SECRET", "_PASSWORD", "_KEY", "_CREDENTIALS")
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"", "0", "false", "no", "off"})


def is_set(name: str) -> bool:
    """Return whether the variable says yes.

    Raises UsageError for a value that is neither yes nor no.
    """
    value = os.environ.get(name, "").strip().lower()
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise UsageError(f"{name}={value!r} is neither yes nor no", hint=f"Set {name} to 1 or 0.")


def drop_secrets(environment: Mapping[str, str], *, keep: Collection[str] = ()) -> dict[str, str]:
    """Return the variables without those whose name is that of a secret, but for those to ``keep``.

    Every process of the same user can read what a child was started with.
    """
    return {name: value for name, value in environment.items() if name in keep or not name.endswith(_SECRETS)}


def get_count(name: str) -> int | None:
    """Return the variable as a whole number, or None if it is not set.

    Raises UsageError for anything else than a whole number.
    """
    value = os.environ.get(name, "").strip()
    try:
        return int(value) if value else None
    except ValueError:
        raise UsageError(f"{name}={value!r} is not a whole number") from None


def get_seconds(name: str) -> float | None:
    """Return the variable as a time in seconds, or None if it is not set.

    Raises UsageError for anything else than a positive number.
    """
    value = os.environ.get(name, "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UsageError(f"{name}={value!r} is not a time in seconds", hint=f"Set {name} to a number such as 5.")
    return seconds


def get_path(name: str) -> Path | None:
    """Return the variable as a path, or None if it is not set."""
    value = os.environ.get(name, "")
    # Path.expanduser raises if there is no home.
    return Path(os.path.expanduser(value)) if value else None  # noqa: PTH111


def is_offline() -> bool:
    """Return whether nothing may be downloaded: LLCUDA_OFFLINE, or the hub's own HF_HUB_OFFLINE."""
    return is_set("LLCUDA_OFFLINE") or is_set("HF_HUB_OFFLINE")


def is_frozen() -> bool:
    """Return whether only the models that ``llcuda.lock`` pins may be used: LLCUDA_FROZEN."""
    return is_set("LLCUDA_FROZEN")


def storage_urls() -> list[str]:
    """Return the addresses of the remote that keeps models and of its mirrors: LLCUDA_STORAGE_URL, between spaces."""
    return os.environ.get("LLCUDA_STORAGE_URL", "").split()


def package_version() -> str:
    """Return the version of llcuda that runs."""
    return str(sys.modules["llcuda"].__version__)


def user_dir() -> Path:
    """Return the user's home: ``/``, as in a container, for one without HOME whom the system does not know."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


def home_dir() -> Path:
    """Return the folder for everything that llcuda keeps: LLCUDA_HOME, or ``llcuda`` in the XDG data folder."""
    chosen = get_path("LLCUDA_HOME")
    if chosen:
        return chosen
    data = get_path("XDG_DATA_HOME") or user_dir() / ".local" / "share"
    return data / "llcuda"


def models_dir() -> Path:
    """Return the folder of the model store."""
    return home_dir() / "models"

