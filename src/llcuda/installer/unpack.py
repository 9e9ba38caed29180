"""Unpack a bundle that is not trusted: regular files of the names, sizes and digests in its record, and no more.

Python's tarfile follows what an archive says: links, devices, sparse files, headers that hold other headers of any
size. A bundle has none of that, so each header is parsed by tarfile and everything but a plain file refused.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import re
import tarfile
import zlib
from typing import TYPE_CHECKING, BinaryIO

from llcuda.errors import BinaryUnusableError, InstallError
from llcuda.native import read_build_info
from llcuda.store import parse_digest
from llcuda.store.atomic_files import sync, sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llcuda.native import BuildInfo

RECORD = "BUILD.json"
_BLOCK = 512
_CHUNK_BYTES = 1 << 20
_MAX_RECORD_BYTES = 1 << 20
_MAX_FILES = 200
_MAX_PADDING = 20 * _BLOCK
"""tar fills up to 20 blocks with zeros."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


def unpack_bundle(
    archive: BinaryIO,
    target: Path,
    *,
    source: str,
    max_bytes: int,
    on_bytes: Callable[[int], object] | None = None,
) -> BuildInfo:
    """Unpack into the empty folder ``target``, put every file on the disk, and return what the bundle's record says.

    No more than ``max_bytes`` are written beside the record; ``on_bytes`` is told again and again how many were.
    Raises InstallError, which names ``source``, for anything that a bundle of ours does not have; ``target`` is then to
    be thrown away. OSError is the disk's.
    """
    with _Reader(archive, source) as reader:
        info = _unpack_record(reader, target)
        if (total := sum(record.bytes for record in info.files.values())) > max_bytes:
            raise reader.refuse(f"its files have {total} bytes, more than the {max_bytes} that were announced")
        missing = dict(info.files)
        reader.on_bytes = on_bytes
        while member := reader.next_member():
            if member.name not in missing:
                again = member.name in info.files
                raise reader.refuse(f"{member.name!r} is {'in it twice' if again else 'not in its record'}")
            record = missing.pop(member.name)
            if member.size != record.bytes:
                raise reader.refuse(f"{member.name} has {member.size} bytes, its record says {record.bytes}")
            digest = reader.write(member, target, mode=0o755 if record.executable else 0o644)
            if digest != record.sha256:
                raise reader.refuse(f"the digest of {member.name} is {digest}, its record says {record.sha256}")
        reader.finish()
    if missing:
        raise reader.refuse(f"{', '.join(missing)} is in its record and not in it")
    sync_folder(target)
    return info


def read_bundle_record(archive: BinaryIO, target: Path, *, source: str) -> BuildInfo:
    """Unpack the record alone, which is the first file of a bundle, and return what it says. Raises InstallError."""
    with _Reader(archive, source) as reader:
        return _unpack_record(reader, target)


def _unpack_record(reader: _Reader, target: Path) -> BuildInfo:
    member = reader.next_member()
    if member is None or member.name != RECORD or member.size > _MAX_RECORD_BYTES:
        raise reader.refuse(f"it does not begin with its record, {RECORD}")
    reader.write(member, target, mode=0o644)
    try:
        info = read_build_info(target)
        _check_record(info)
    except (BinaryUnusableError, ValueError, TypeError) as error:
        raise reader.refuse(f"its record is damaged: {getattr(error, 'reason', error)}") from error
    return info


def _check_record(info: BuildInfo) -> None:
    if not 0 < len(info.files) <= _MAX_FILES:
        raise ValueError(f"{len(info.files)} files are not between 1 and {_MAX_FILES}")
    for name, record in info.files.items():
        if not _NAME.fullmatch(name) or name == RECORD:
            raise ValueError(f"{name!r} is not a name for a file of a bundle")
        if type(record.bytes) is not int or record.bytes < 0:
            raise ValueError(f"{record.bytes!r} is not the size of a file")
        parse_digest(record.sha256)


class _Reader(contextlib.AbstractContextManager["_Reader"]):
    """One pass over the members of a gzipped tar."""

    def __init__(self, archive: BinaryIO, source: str) -> None:
        self.source = source
        self.on_bytes: Callable[[int], object] | None = None
        self._written = 0
        self._packed = gzip.GzipFile(fileobj=archive, mode="rb")

    def __exit__(self, *_: object) -> None:
        self._packed.close()

    def refuse(self, reason: str) -> InstallError:
        return InstallError(self.source, reason)

    def next_member(self) -> tarfile.TarInfo | None:
        """Return the header of the next regular file, None at the end of the archive."""
        block = self._read(_BLOCK)
        if block == bytes(_BLOCK):
            return None
        try:
            member = tarfile.TarInfo.frombuf(block, "ascii", "strict")
        except (tarfile.TarError, ValueError) as error:
            raise self.refuse(f"it is damaged: {error}") from error
        if member.type != tarfile.REGTYPE or not _NAME.fullmatch(member.name) or member.size < 0:
            raise self.refuse(f"it holds something other than a plain file: {member.name!r}")
        return member

    def write(self, member: tarfile.TarInfo, folder: Path, *, mode: int) -> str:
        """Write the member's content into ``folder``, synced, and return its digest."""
        digest = hashlib.sha256()
        with (folder / member.name).open("xb") as file:
            os.fchmod(file.fileno(), mode)  # whatever the umask says
            left = member.size
            while left:
                piece = self._read(min(left, _CHUNK_BYTES))
                left -= len(piece)
                digest.update(piece)
                file.write(piece)
                self._note(len(piece))
            sync(file)
        if padding := -member.size % _BLOCK:
            self._read(padding)
        return f"sha256:{digest.hexdigest()}"

    def _note(self, count: int) -> None:
        if self.on_bytes is not None:
            self._written += count
            self.on_bytes(self._written)

    def finish(self) -> None:
        """Read what is left: zeros, and no more of them than tar writes."""
        rest = self._decompress(_MAX_PADDING + 1)
        if len(rest) > _MAX_PADDING or rest.strip(b"\0"):
            raise self.refuse("something follows its last file")

    def _read(self, count: int) -> bytes:
        data = self._decompress(count)
        if len(data) != count:
            raise self.refuse("it ends in the middle")
        return data

    def _decompress(self, count: int) -> bytes:
        try:
            return self._packed.read(count)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise self.refuse(f"it is damaged: {error}") from error
