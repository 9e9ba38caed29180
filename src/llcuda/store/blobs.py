"""The files of the store, each under its SHA-256.

::

    blobs/sha256/<64 hex>       the files
    quarantine/<64 hex>.<n>     files that were changed in place, and are no longer what they are called
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import secrets
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Literal

from llcuda.errors import ChecksumMismatchError, ModelError, ModelNotFoundError, UsageError
from llcuda.store.atomic_files import move_into_place, place_file, reading, sync, sync_folder, temporary_path, writing
from llcuda.store.digests import get_digest, hash_file, parse_digest, remember_digest, require_digest, verify_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

__all__ = ["Blobs", "Taken", "hold_files"]

_FICLONE = 0x40049409
_COPY_BYTES = 1 << 20
_UNLINKABLE = frozenset({errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOENT})
"""The other disk, a disk without links, a file of somebody else's, and one with too many links."""
_UNCLONABLE = frozenset({errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM})

_log = logging.getLogger("llcuda")


@dataclass(frozen=True, slots=True)
class Taken:
    """How a file came into the store."""

    digest: str
    how: Literal["present", "clone", "link", "copy"]
    """``present`` if the same content was there; a ``clone`` or a ``link`` takes no space of its own."""


class Blobs:
    """The files under one folder."""

    def __init__(self, root: Path) -> None:
        """Use ``root``. Nothing is created before something is added."""
        self.root = root
        self._folder = root / "blobs" / "sha256"

    def path(self, digest: str) -> Path:
        """Return where the file with this digest lies or would lie. Raises UsageError for anything but a digest."""
        return self._folder / parse_digest(digest).partition(":")[2]

    def get(self, digest: str) -> Path | None:
        """Return the file's path, or None if it is not in the store.

        A file that has changed since it was last read is read again, and taken out of the way if it is another now.
        """
        path = self.path(digest)
        with reading(path):
            if not _is_regular(path):
                return None
            try:
                verify_file(path, digest)
            except ChecksumMismatchError:
                self._quarantine(path)
                return None
            except FileNotFoundError:
                return None
        return path

    def find(self, digest: str) -> Path:
        """Return the file's path. Raises ModelNotFoundError if it is not in the store."""
        path = self.get(digest)
        if path is None:
            raise ModelNotFoundError(parse_digest(digest), "no file in the store has this digest")
        return path

    def list(self) -> dict[str, Path]:
        """Return every file by its digest, in the order of these, without reading any."""
        with reading(self._folder):
            paths = sorted(path for path in self._folder.glob("[0-9a-f]" * 64) if _is_regular(path))
        return {f"sha256:{path.name}": path for path in paths}

    def write(self, document: bytes, digest: str) -> None:
        """Keep a small document under its digest."""
        with place_file(self.path(digest)) as file:
            file.write(document)

    def adopt(self, file: Path, *, expected: str | None = None, digest: str | None = None) -> str:
        """Move a file of the same disk into the store and return its digest.

        It is read to know its ``digest``, unless that was computed while it was written. Raises ChecksumMismatchError,
        and leaves the file where it is, if it is not the ``expected`` one.
        """
        digest = digest or hash_file(file)
        require_digest(digest, expected, name=file)
        path = self.path(digest)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        move_into_place(file, path)
        remember_digest(path, digest)
        return digest

    def take_in(
        self,
        file: Path,
        *,
        expected: str | None = None,
        is_copied: bool = False,
        on_bytes: Callable[[int], object] | None = None,
    ) -> Taken:
        """Have the content of ``file`` in the store, without a copy if the disk can; the file itself stays as it is.

        A file that was hashed before and has not changed is not read again. ``is_copied`` makes a copy in any case, so
        that nobody can change the store's file in place. ``on_bytes`` is told of every piece that is read. Raises
        UsageError for what is no file, ChecksumMismatchError if it is not the ``expected`` one, and ModelError if it
        changes meanwhile or the store cannot be written.
        """
        with reading(file):
            if not file.is_file():
                raise UsageError(f"{file} is not a file")
            before = _content_state(file)
            digest = get_digest(file, on_bytes=on_bytes)
        require_digest(digest, expected, name=file)
        if self.get(digest):
            return Taken(digest, "present")
        path = self.path(digest)
        temporary = temporary_path(path)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with file.open("rb") as source:
                    how = "copy" if is_copied else _share(source, temporary)
                    if how == "copy":
                        _copy(source, temporary)
                    if _content_state(file) != before:
                        raise ModelError(f"{file} changed while it was read", hint="Try again when it is whole.")
                    move_into_place(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        remember_digest(path, digest)
        return Taken(digest, how)

    def export(self, digest: str, target: Path) -> None:
        """Write the file to ``target``, as a clone if the disk can, else as a copy: it is never a link to the store's.

        Raises ModelNotFoundError if it is not in the store, and ModelError if ``target`` cannot be written.
        """
        path = self.find(digest)
        temporary = temporary_path(target)
        with writing(target):
            try:
                with path.open("rb") as source:
                    if not _clone(source, temporary):
                        _copy(source, temporary)
                    move_into_place(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)

    def remove(self, digest: str) -> int:
        """Remove the file, and return the bytes that this freed: none if it has another link, or is in use.

        Raises ModelNotFoundError if it is not in the store.
        """
        path = self.path(digest)
        with writing(path):
            if not _is_regular(path):
                raise ModelNotFoundError(parse_digest(digest), "no file in the store has this digest")
            status = path.stat()
            path.unlink()
        return status.st_size if status.st_nlink == 1 else 0

    def is_held(self, digest: str) -> bool:
        """Tell whether a process has said with :func:`hold_files` that it uses the file."""
        path = self.path(digest)
        with reading(path):
            try:
                with path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except FileNotFoundError:
                return False
            except BlockingIOError:
                return True
        return False

    def _quarantine(self, path: Path) -> None:
        aside = self.root / "quarantine" / f"{path.name}.{secrets.token_hex(4)}"
        with writing(aside):
            aside.parent.mkdir(parents=True, exist_ok=True)
            path.replace(aside)
            sync_folder(path.parent)
        _log.warning("%s was changed in place, and is kept as %s", path, aside)


@contextlib.contextmanager
def hold_files(paths: Iterable[Path]) -> Iterator[None]:
    """Say, as long as it lasts and this process lives, that files are in use; what is no file is left out."""
    with contextlib.ExitStack() as stack:
        for path in paths:
            with contextlib.suppress(OSError):
                file = stack.enter_context(path.open("rb"))
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield


def _content_state(file: Path) -> tuple[int, int, int]:
    """Return what is another as soon as the content is; unlike the time of the inode, a link does not change it."""
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _share(source: BinaryIO, temporary: Path) -> Literal["clone", "link", "copy"]:
    """Let ``temporary`` have the content of the file without a copy: as a clone, or as a link; ``copy`` if neither."""
    try:
        # A temporary file that nobody has locked is swept away once it is old, and a link is as old as its file.
        fcntl.flock(source, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.fsync(source.fileno())
    except OSError:
        return "copy"
    if _clone(source, temporary):
        return "clone"
    try:
        # The file that was opened, whatever lies under its name by now. Python follows the link only with a folder.
        descriptor = source.fileno()
        os.link(f"/proc/self/fd/{descriptor}", temporary, src_dir_fd=descriptor, follow_symlinks=True)
    except OSError as error:
        if error.errno not in _UNLINKABLE:
            raise
        return "copy"
    return "link"


def _clone(source: BinaryIO, temporary: Path) -> bool:
    """Let ``temporary`` share the blocks of the file until one of them is written to, and tell whether it could be."""
    try:
        with temporary.open("xb") as target:
            fcntl.ioctl(target, _FICLONE, source.fileno())
            sync(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno not in _UNCLONABLE:
            raise
        return False
    return True


def _copy(source: BinaryIO, temporary: Path) -> None:
    with temporary.open("xb") as target:
        fcntl.flock(target, fcntl.LOCK_EX)
        while piece := source.read(_COPY_BYTES):
            target.write(piece)
        sync(target)


def _is_regular(path: Path) -> bool:
    """Return whether a file itself lies there: a link could lead out of the store."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
