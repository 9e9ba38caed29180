"""vendor/llama.cpp.lock: which source package is vendored, its hash, and the files and patches that a build needs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tools.binaries.errors import PreparationError
from tools.binaries.patches import Patch, read_patches

__all__ = ["LOCK_PATH", "ROOT", "TREE_PATH", "Lock", "hash_file", "read_lock", "write_lock"]

ROOT = Path(__file__).resolve().parents[2]
LOCK_PATH = ROOT / "vendor" / "llama.cpp.lock"
TREE_PATH = ROOT / "vendor" / "llama.cpp"
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Lock:
    """The lock file's facts, and the patches beside it. `data` is the whole document, for rewriting it."""

    data: dict[str, Any]
    patches: tuple[Patch, ...] = ()

    @property
    def tag(self) -> str:
        return str(self.data["tag"])

    @property
    def package(self) -> str:
        return str(self.data["source"]["package"])

    @property
    def package_version(self) -> str:
        return str(self.data["source"]["version"])

    @property
    def sha256(self) -> str:
        return str(self.data["source"]["sha256"])

    @property
    def bytes(self) -> int:
        return int(self.data["source"]["bytes"])

    @property
    def folder(self) -> str:
        return str(self.data["source"]["folder"])

    @property
    def digest(self) -> str:
        """Return the hash of everything that decides what the tree holds; it is the stamp of an unpacked tree."""
        deciding = {key: self.data[key] for key in ("source", "include", "exclude")}
        deciding["patches"] = [patch.digest for patch in self.patches]
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()

    def selects(self, path: str) -> bool:
        """Say whether a build needs this file; `path` is relative to upstream's root.

        An entry is a file, a folder with all that is under it, or `folder/*`: the files directly in a folder.
        """
        return any(covers(entry, path) for entry in self.data["include"]) and not any(
            covers(entry, path) for entry in self.data["exclude"]
        )


def covers(entry: str, path: str) -> bool:
    if entry.endswith("/*"):
        return str(PurePosixPath(path).parent) == entry[:-2]
    return path == entry or path.startswith(entry + "/")


def read_lock(path: Path = LOCK_PATH) -> Lock:
    """Read the lock file and the patches beside it.

    Raises PreparationError when it is missing or not the JSON document that it must be.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        lock = Lock(data, read_patches(path.with_name("patches")))
        _ = (lock.tag, lock.package, lock.package_version, lock.sha256, lock.bytes, lock.folder, lock.digest)
    except OSError as error:
        raise PreparationError(
            f"cannot read {path}: {error.strerror}. It is part of the repository: restore it with `git checkout`."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise PreparationError(f"{path} is damaged ({error!r}). Restore it with `git checkout`.") from error
    return lock


def write_lock(data: dict[str, Any], path: Path = LOCK_PATH) -> None:
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
