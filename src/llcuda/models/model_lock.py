"""``llcuda.lock``: the digests of a project's models, so that they are the same tomorrow and on another machine."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llcuda.errors import ChecksumMismatchError, ModelError, UsageError
from llcuda.store import get_digest, parse_digest, place_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["LOCK_FILE", "PinnedModel", "find", "pin", "read"]

LOCK_FILE = "llcuda.lock"
"""It lies in the current folder."""
_VERSION = 1
_MAX_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class PinnedModel:
    """A model of the lock."""

    name: str
    source: str
    """The name by which it is found again: for a model of the hub with the commit."""
    files: Mapping[str, str]
    """The digest of each file, by its name."""

    def require(self, paths: Iterable[Path]) -> None:
        """Raise ChecksumMismatchError if the files are not the pinned ones, in any order."""
        wanted, found = sorted(self.files.values()), sorted(get_digest(path) for path in paths)
        if wanted != found:
            raise ChecksumMismatchError(
                f"{self.name}, which {LOCK_FILE} pins", expected=", ".join(wanted), actual=", ".join(found)
            )


def find(name: str) -> PinnedModel:
    """Return a model of the lock. Raises UsageError if the lock does not have it, and ModelError if it is damaged."""
    pinned = read()
    if name not in pinned:
        raise UsageError(
            f"{name!r} is not in {LOCK_FILE}, and nothing else may be used",
            hint=f"Pin it with `llcuda models lock {name}`, or leave out --frozen (LLCUDA_FROZEN).",
        )
    return pinned[name]


def read() -> dict[str, PinnedModel]:
    """Return the models of the lock in the current folder, none if there is none. Raises ModelError."""
    path = Path(LOCK_FILE)
    try:
        with path.open("rb") as file:
            document = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from None
    try:
        return _parse(document)
    except (ValueError, TypeError, KeyError, RecursionError, AttributeError, UsageError):
        hint = "Restore it, or remove it and pin the models anew with `llcuda models lock`."
        raise ModelError(f"{path} is damaged, or of a newer llcuda", hint=hint) from None


def pin(name: str, source: str, files: Mapping[str, str]) -> PinnedModel:
    """Write a model to the lock, in place of what it had under this name. Raises ModelError."""
    pinned = {**read(), name: PinnedModel(name, source, files)}
    models = {one.name: {"source": one.source, "files": dict(sorted(one.files.items()))} for one in pinned.values()}
    with place_file(Path(LOCK_FILE)) as file:
        file.write(json.dumps({"version": _VERSION, "models": dict(sorted(models.items()))}, indent=2).encode() + b"\n")
    return pinned[name]


def _parse(document: bytes) -> dict[str, PinnedModel]:
    given: dict[str, Any] = json.loads(document)
    if given["version"] != _VERSION:
        raise ValueError(given["version"])
    return {
        name: PinnedModel(name, str(one["source"]), {file: parse_digest(text) for file, text in one["files"].items()})
        for name, one in given["models"].items()
    }
