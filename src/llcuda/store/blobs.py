"""Files that are named by their SHA-256.

::

    models/
    ├── blobs/sha256-<64 hex>      the files
    ├── names/<64 hex>.json        {"name", "digest"}; the file's name is the SHA-256 of the name
    ├── sets/<64 hex>/…            links to blobs under the names that a model in several files needs
    └── verified.json              digests of files that have not changed since they were hashed
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llcuda import settings
from llcuda.errors import ModelNotFoundError, UsageError
from llcuda.store.atomic_files import move_into_place, place_file, replace_link, writing
from llcuda.store.digests import hash_file, parse_digest, remember_digest, require_digest

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A file in the store, and the names that lead to it."""

    digest: str
    path: Path
    bytes: int
    names: tuple[str, ...]


class ModelStore:
    """The files under one folder, by digest and by name."""

    def __init__(self, root: Path | None = None) -> None:
        """Use ``root``, or the folder that the settings name. Nothing is created before something is added."""
        self.root = root or settings.models_dir()

    def path(self, digest: str) -> Path:
        """Return where the file with this digest lies or would lie. Raises UsageError for anything but a digest."""
        return self.root / "blobs" / parse_digest(digest).replace(":", "-")

    def get(self, digest: str) -> Path | None:
        """Return the file's path, or None if it is not in the store."""
        path = self.path(digest)
        return path if _is_regular(path) else None

    def find(self, digest: str) -> Path:
        """Return the file's path. Raises ModelNotFoundError if it is not in the store."""
        path = self.get(digest)
        if path is None:
            raise ModelNotFoundError(parse_digest(digest), "no file in the store has this digest")
        return path

    def adopt(self, file: Path, *, expected: str | None = None) -> str:
        """Move a file of the same disk into the store and return its digest.

        Raises ChecksumMismatchError, and leaves the file where it is, if it is not the ``expected`` one.
        """
        digest = hash_file(file)
        require_digest(digest, expected, name=file)
        path = self.path(digest)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        move_into_place(file, path)
        remember_digest(path, digest)
        return digest

    def _name_path(self, name: str) -> Path:
        return self.root / "names" / f"{_hash_name(name)}.json"

    def link(self, name: str, digest: str) -> None:
        """Let ``name``, which may be any text, lead to the file with this digest."""
        with place_file(self._name_path(name)) as file:
            file.write(json.dumps({"name": name, "digest": parse_digest(digest)}).encode())

    def get_link(self, name: str) -> str | None:
        """Return the digest that ``name`` leads to, or None if it leads to no file in the store."""
        found = _read_name(self._name_path(name))
        return found[1] if found and found[0] == name and self.get(found[1]) else None

    def unlink(self, name: str) -> None:
        """Forget the ``name``; the file stays."""
        self._name_path(name).unlink(missing_ok=True)

    def names(self) -> dict[str, str]:
        """Return every name with its digest."""
        found = (_read_name(path) for path in sorted((self.root / "names").glob("*.json")))
        return dict(pair for pair in found if pair)

    def list(self) -> tuple[StoredBlob, ...]:
        """Return every file in the store, in the order of their digests."""
        names = self.names()
        paths = sorted(path for path in (self.root / "blobs").glob("sha256-" + "[0-9a-f]" * 64) if _is_regular(path))
        return tuple(
            StoredBlob(digest, path, path.stat().st_size, tuple(n for n, target in names.items() if target == digest))
            for path, digest in ((path, path.name.replace("-", ":")) for path in paths)
        )

    def remove(self, digest: str) -> int:
        """Remove the file and the names that lead to it, and return the bytes that this freed.

        Raises ModelNotFoundError if it is not in the store.
        """
        path = self.find(digest)
        freed = path.stat().st_size
        path.unlink()
        for name, target in self.names().items():
            if target == parse_digest(digest):
                self.unlink(name)
        return freed

    def make_set(self, name: str, files: Mapping[str, str]) -> Path:
        """Return a folder with the files under the names that they must have: ``{file name: digest}``.

        llama.cpp finds the parts of a split model by their names. Raises UsageError for a name that is a path.
        """
        folder = self.root / "sets" / _hash_name(name)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for file_name, digest in files.items():
                if file_name in {"", ".", ".."} or "/" in file_name or "\0" in file_name:
                    raise UsageError(f"{file_name!r} is not the name of a file")
                replace_link(folder / file_name, Path("..", "..", "blobs", self.path(digest).name))
        return folder


def _hash_name(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _is_regular(path: Path) -> bool:
    """Return whether a file itself lies there: a link could lead out of the store."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _read_name(path: Path) -> tuple[str, str] | None:
    try:
        entry = json.loads(path.read_bytes())
        return str(entry["name"]), parse_digest(entry["digest"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
