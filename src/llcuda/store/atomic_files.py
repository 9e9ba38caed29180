"""The one way to put a file in its place: whole and on the disk, or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import time
from typing import TYPE_CHECKING, BinaryIO

from llcuda.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""EFBIG is a limit of the shell: ``ulimit -f``."""

_TEMPORARY = ".part"
_ABANDONED_AFTER = 60.0
"""Seconds after which a temporary file that nobody holds locked is taken for a dead process's."""


@contextlib.contextmanager
def place_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write, which appears at ``path`` when it is whole and on the disk, or not at all.

    It is written under another name in the same folder, synced and renamed, and the folder is synced. Raises ModelError
    if it cannot be written, as on a full disk.
    """
    temporary = temporary_path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path.parent)
        file = temporary.open("xb")
    try:
        with writing(path), file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
            sync(file)
            move_into_place(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """Return a name in the same folder that nobody uses, and that is swept away if its process dies."""
    return path.with_name(f".{path.name[:80]}.{os.getpid()}.{secrets.token_hex(4)}{_TEMPORARY}")


def sync(file: BinaryIO) -> None:
    """Put everything that was written on the disk."""
    file.flush()
    os.fsync(file.fileno())


def move_into_place(temporary: Path, path: Path) -> None:
    """Rename a synced file of the same disk, and sync the folder so that the name survives a power cut too."""
    with writing(path):
        temporary.replace(path)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_link(path: Path, target: Path) -> None:
    """Let ``path`` be a link to ``target``, in one step, whatever it was before."""
    temporary = path.with_name(f".{secrets.token_hex(8)}{_TEMPORARY}")
    temporary.symlink_to(target)
    temporary.replace(path)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the disk refuses into a ModelError."""
    try:
        yield
    except OSError as error:
        if isinstance(error, ModelError):
            raise
        raise _describe(error, path) from error


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what cannot be read into a ModelError."""
    try:
        yield
    except OSError as error:
        if isinstance(error, ModelError):
            raise
        reason = f"{path} cannot be read: {error.strerror}"
        raise ModelError(reason, hint="Check the disk, and who may read it.") from error


def _describe(error: OSError, path: Path) -> ModelError:
    if error.errno in DISK_FULL:
        return ModelError(
            f"{path} cannot be written: {error.strerror}",
            hint="Free some space (`llcuda models list` shows what is there, `llcuda models rm` removes it), "
            "or set LLCUDA_HOME (HF_HOME for models of the hub) to a larger disk.",
        )
    hint = "Set LLCUDA_HOME (HF_HOME for models of the hub) to a folder that can be written."
    return ModelError(f"{path} cannot be written: {error}", hint=hint)


def _remove_abandoned(folder: Path) -> None:
    """Remove the temporary files of processes that were killed: old, and locked by nobody."""
    for path in folder.glob(f".*{_TEMPORARY}"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            if time.time() - os.fstat(file.fileno()).st_mtime > _ABANDONED_AFTER:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
