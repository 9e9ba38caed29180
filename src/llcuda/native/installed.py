"""What was installed into the user's data folder beside what the package carries: the record of it, read.

Each version of llcuda has a folder there, ``binaries/<version>/``, with one folder for each bundle and ``active.json``,
which says which of them are in use. What the record does not name is not there, whatever the folder holds.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llcuda import settings
from llcuda.errors import BinaryUnusableError

if TYPE_CHECKING:
    from pathlib import Path

RECORD = "active.json"
_SCHEMA = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_START_AGAIN = "Remove the file; then install again: llcuda gpu install"


@dataclass(frozen=True, slots=True)
class InstalledBundle:
    """One bundle that was installed and is in use."""

    name: str
    """Its folder's name: profile and the first digits of the bundle's SHA-256."""
    profile: str
    """``cuda12`` or ``cuda13`` for a backend; ``native`` or ``all`` for the executables."""
    sha256: str
    """The bundle's digest, ``sha256:<64 hex>``."""
    source: str
    """Where it came from."""
    date: str
    """When it was installed, in UTC."""
    folder: Path
    proof: dict[str, Any] = field(default_factory=dict)
    """What was seen when it was tried on this machine."""

    @property
    def is_backend(self) -> bool:
        """Whether it is a CUDA backend, rather than the executables."""
        return self.profile.startswith("cuda")


def installed_dir(home: Path | None = None) -> Path:
    """Return the folder of what is installed for this version of llcuda, which need not exist."""
    return (home or settings.home_dir()) / "binaries" / settings.package_version()


def read_installed(folder: Path | None = None) -> tuple[InstalledBundle, ...]:
    """Return the bundles in use in ``folder``, by default :func:`installed_dir`. Raises what read_record raises."""
    return read_record(folder or installed_dir())[0]


def get_installed_executables() -> Path | None:
    """Return the folder of the executables that were installed. Raises what read_record raises."""
    return next((bundle.folder for bundle in read_installed() if not bundle.is_backend), None)


def read_record(folder: Path) -> tuple[tuple[InstalledBundle, ...], ...]:
    """Return the bundles in use now, then those that were in use before, the last first.

    Raises BinaryUnusableError if the record is damaged or of an unknown schema.
    """
    path = folder / RECORD
    try:
        return _parse(json.loads(path.read_bytes()), folder)
    except (FileNotFoundError, NotADirectoryError):
        return ((),)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BinaryUnusableError(path, f"the file is damaged ({error!r})", hint=_START_AGAIN) from error


def _parse(data: dict[str, Any], folder: Path) -> tuple[tuple[InstalledBundle, ...], ...]:
    if data["schema"] != _SCHEMA:
        raise ValueError(f"schema {data['schema']!r} is not {_SCHEMA}")
    times = data["active"], *data["before"]
    return tuple(tuple(_parse_bundle(entry, folder) for entry in entries) for entries in times)


def _parse_bundle(entry: dict[str, Any], folder: Path) -> InstalledBundle:
    name = entry["name"]
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a folder")
    return InstalledBundle(folder=folder / name, **{**entry, "proof": dict(entry["proof"])})
