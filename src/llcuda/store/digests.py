"""Digests: ``sha256:<64 hex>`` everywhere, and a memory of which files have been hashed already."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from typing import TYPE_CHECKING, BinaryIO

from llcuda import settings
from llcuda.errors import ChecksumMismatchError, ModelError, UsageError
from llcuda.store.atomic_files import place_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")
_CHUNK_BYTES = 1 << 20
_MAX_VERIFIED = 1000


def parse_digest(text: str) -> str:
    """Return ``text`` as ``sha256:<64 hex>``; ``sha256-`` and capitals are taken too.

    Every digest that comes from outside goes through here before it becomes part of a path. Raises UsageError.
    """
    match = _DIGEST.fullmatch(text)
    if not match:
        raise UsageError(f"{text!r} is not a digest", hint="A digest is sha256: and 64 hexadecimal digits.")
    return f"sha256:{match[1].lower()}"


def require_digest(actual: str, expected: str | None, *, name: Path | str) -> None:
    """Raise ChecksumMismatchError, which calls the file ``name``, if a digest is ``expected`` and this is another."""
    if expected is not None and actual != parse_digest(expected):
        raise ChecksumMismatchError(name, expected=parse_digest(expected), actual=actual)


def hash_file(path: Path | str, *, on_bytes: Callable[[int], object] | None = None) -> str:
    """Read the whole file and return its digest as ``sha256:<64 hex>``; ``on_bytes`` is told of every piece."""
    with open(path, "rb") as file:  # noqa: PTH123 - paths come as text too
        return hash_stream(file, on_bytes=on_bytes)


def hash_stream(stream: BinaryIO, *, on_bytes: Callable[[int], object] | None = None) -> str:
    """Read the stream to its end and return its digest."""
    state = hashlib.sha256()
    while piece := stream.read(_CHUNK_BYTES):
        state.update(piece)
        if on_bytes is not None:
            on_bytes(len(piece))
    return f"sha256:{state.hexdigest()}"


def get_digest(path: Path | str, *, on_bytes: Callable[[int], object] | None = None) -> str:
    """Return the file's digest, hashing it only if it has changed since it was last hashed.

    Unchanged means the same device, inode, size, and times of the last change of content and of inode.
    """
    known = _read_verified()
    key, state = _state_of(path)
    if known.get(key, [])[1:] == state:
        return str(known[key][0])
    digest = hash_file(path, on_bytes=on_bytes)
    if _state_of(path) == (key, state):
        _write_verified({**known, key: [digest, *state]})
    return digest


def remember_digest(path: Path | str, digest: str) -> None:
    """Note the digest of a file that was hashed while it was written. If it cannot be, the file is read once more."""
    with contextlib.suppress(OSError):
        key, state = _state_of(path)
        _write_verified({**_read_verified(), key: [digest, *state]})


def verify_file(path: Path | str, digest: str) -> None:
    """Compare the file with its ``digest``; a file that has not changed since the last time is not read again.

    Raises ChecksumMismatchError.
    """
    require_digest(get_digest(path), parse_digest(digest), name=path)


def _state_of(path: Path | str) -> tuple[str, list[int]]:
    status = os.stat(path)  # noqa: PTH116 - paths come as text too
    return f"{status.st_dev}:{status.st_ino}", [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _verified_path() -> Path:
    return settings.models_dir() / "verified.json"


def _read_verified() -> dict[str, list[str | int]]:
    try:
        known = json.loads(_verified_path().read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    usable = isinstance(known, dict) and all(isinstance(value, list) for value in known.values())
    return known if usable else {}


def _write_verified(known: dict[str, list[str | int]]) -> None:
    """Write the newest entries. A lost entry costs one more hashing, so a folder that is read-only is no error."""
    newest = dict(list(known.items())[-_MAX_VERIFIED:])
    with contextlib.suppress(ModelError), place_file(_verified_path()) as file:
        file.write(json.dumps(newest).encode())
