"""Which bundles are in use and which were before: pure steps from one record to the next, and one way to write it."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from llcuda.native import RECORD
from llcuda.store import place_file

if TYPE_CHECKING:
    from pathlib import Path

    from llcuda.native import InstalledBundle

__all__ = ["Times", "activate", "deactivate", "go_back", "names_in_use", "write_record"]

Times = tuple[tuple["InstalledBundle", ...], ...]
"""The bundles in use now, then those that were in use before, the last first."""

_KEPT = 2
"""How many times before now can be gone back to: a CUDA backend takes up to 200 MB."""


def activate(times: Times, bundle: InstalledBundle) -> Times:
    """Return the record with ``bundle`` in use, in place of the one of its profile.

    The same bytes installed again are no change to go back from.
    """
    others = tuple(one for one in times[0] if one.profile != bundle.profile)
    again = any(one.sha256 == bundle.sha256 for one in times[0])
    return (*others, bundle), *(times[1:] if again else times[:_KEPT])


def deactivate(times: Times, profile: str) -> Times:
    """Return the record without the bundle of ``profile``, in use now or before."""
    return tuple(tuple(one for one in bundles if one.profile != profile) for bundles in times)


def go_back(times: Times) -> Times:
    """Return the record as it was before the last change."""
    return times[1:] or ((),)


def names_in_use(times: Times) -> frozenset[str]:
    """Return the names of the folders that the record needs."""
    return frozenset(one.name for bundles in times for one in bundles)


def write_record(folder: Path, times: Times) -> None:
    """Put the record in place of the one before, at once and on the disk. Raises ModelError on a full disk."""
    active, *before = [
        [{key: value for key, value in dataclasses.asdict(one).items() if key != "folder"} for one in bundles]
        for bundles in times
    ]
    text = json.dumps({"schema": 1, "active": active, "before": before}, indent=2)
    with place_file(folder / RECORD) as file:
        file.write(text.encode())
