"""Several remotes with the same models: each read from the first that does as it should, and written to every one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

from llcuda.errors import StorageError
from llcuda.storage.remote import InterruptedTransferError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from llcuda.storage.pieces import Upload
    from llcuda.storage.remote import Remote

__all__ = ["MirroredRemote"]

T = TypeVar("T")

_log = logging.getLogger("llcuda")


class MirroredRemote:
    """The models of several remotes."""

    def __init__(self, remotes: Sequence[Remote]) -> None:
        """Prefer the first of the remotes, and then those that have not failed yet."""
        self._remotes = list(remotes)
        self.url = remotes[0].url

    def find_bytes(self, digest: str) -> int | None:
        """Return how many bytes the file with this digest has at the first remote that has it, or None."""
        return self._find(lambda remote: remote.find_bytes(digest))

    def read_range(self, digest: str, start: int, end: int) -> Iterator[bytes]:
        """Yield a part of a file; what one remote does not give comes from the next."""
        order = tuple(self._remotes)
        for number, remote in enumerate(order, 1):
            try:
                for piece in remote.read_range(digest, start, end):
                    start += len(piece)
                    yield piece
            except (InterruptedTransferError, StorageError) as error:
                if number == len(order):
                    raise
                self._put_last(remote)
                _log.warning("%s; trying %s", error, order[number].url)
            if start >= end:
                return

    def put(self, digest: str, upload: Upload) -> None:
        """Keep a file at every remote that lacks it."""
        for remote in self._remotes:
            if remote.find_bytes(digest) != upload.bytes:
                remote.put(digest, upload)

    def require_name(self, name: str) -> None:
        """Raise UsageError if no model can have this name at one of them."""
        for remote in self._remotes:
            remote.require_name(name)

    def read_manifest(self, name: str, *, max_bytes: int) -> bytes | None:
        """Return the manifest of the model with this name, or None if no remote has one."""
        return self._find(lambda remote: remote.read_manifest(name, max_bytes=max_bytes))

    def write_manifest(self, name: str, document: bytes) -> None:
        """Let a name lead to a model at every remote."""
        for remote in self._remotes:
            remote.write_manifest(name, document)

    def list_names(self) -> list[str]:
        """Return the names that any remote has."""
        found: dict[str, None] = {}
        for remote in self._remotes:
            found |= dict.fromkeys(remote.list_names())
        return list(found)

    def _find(self, look: Callable[[Remote], T | None]) -> T | None:
        """Return what the first remote has that has anything; a remote that fails is passed over if another has it."""
        failures: list[StorageError] = []
        for remote in tuple(self._remotes):
            found = self._try(look, remote, failures)
            if found is not None:
                return found
        if failures:
            raise failures[0]
        return None

    def _try(self, look: Callable[[Remote], T | None], remote: Remote, failures: list[StorageError]) -> T | None:
        try:
            return look(remote)
        except StorageError as error:
            self._put_last(remote)
            _log.warning("%s", error)
            failures.append(error)
            return None

    def _put_last(self, remote: Remote) -> None:
        if remote is self._remotes[0]:
            self._remotes = [*self._remotes[1:], remote]
