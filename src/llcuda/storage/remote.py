"""What a remote is: files by their digests, and manifests by the names of models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llcuda.storage.pieces import Upload

__all__ = ["InterruptedTransferError", "RangesRefusedError", "Remote"]


class InterruptedTransferError(Exception):
    """A transfer broke off, and may go on if it is asked for again."""


class RangesRefusedError(Exception):
    """The server sends a file from its beginning, whatever part is asked for."""


class Remote(Protocol):
    """A place that keeps models. Each method raises StorageError if the place does not do as it should."""

    url: str

    def find_bytes(self, digest: str) -> int | None:
        """Return how many bytes the file with this digest has, or None if there is none."""
        ...

    def read_range(self, digest: str, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes of a file from ``start`` to ``end``.

        Several threads read parts of one file at a time. Raises InterruptedTransferError for what may go well the next
        time, and RangesRefusedError if only a whole file can be had: from ``start`` 0.
        """
        ...

    def put(self, digest: str, upload: Upload) -> None:
        """Keep a file under its digest; it is there as a whole, or not at all."""
        ...

    def require_name(self, name: str) -> None:
        """Raise UsageError if no model can have this name here."""
        ...

    def read_manifest(self, name: str, *, max_bytes: int) -> bytes | None:
        """Return the manifest of the model with this name, or None if there is none."""
        ...

    def write_manifest(self, name: str, document: bytes) -> None:
        """Let a name lead to a model, whose files are there."""
        ...

    def list_names(self) -> list[str]:
        """Return the names of the models."""
        ...
