"""What a remote is: files by their keys, of which a key says what must be in it.

::

    blobs/sha256/<64 hex>       files, configs and manifests, as in the store on this disk
    names/<name>                the manifest of the model with this name, which is percent-encoded
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from llcuda.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Remote", "open_remote"]

_SCHEMES = "file://, http:// and https://"


class Remote(Protocol):
    """A place that keeps files by their keys. Each method raises StorageError if the place does not do as it should."""

    url: str

    def find_bytes(self, key: str) -> int | None:
        """Return how many bytes a file has, or None if there is none."""
        ...

    def read(self, key: str, *, max_bytes: int) -> bytes | None:
        """Return a small file, or None if there is none. Raises StorageError if it is larger."""
        ...

    def fetch(self, key: str, part: Path, *, is_shown: bool) -> None:
        """Have a file at ``part``, going on where an earlier attempt has ended."""
        ...

    def put(self, key: str, file: Path, *, is_shown: bool) -> None:
        """Keep a file under a key; it is there as a whole, or not at all."""
        ...

    def write(self, key: str, data: bytes) -> None:
        """Keep a small file under a key, in place of what was there."""
        ...

    def list_names(self, folder: str) -> list[str]:
        """Return what is in a folder, without the folder's own name."""
        ...


def open_remote(url: str) -> Remote:
    """Return the remote at an address. Raises UsageError for one that cannot be, or that has a password in it."""
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in {"", "localhost"} and parts.path.startswith("/"):
        from llcuda.storage.folder_remote import FolderRemote  # noqa: PLC0415 - loaded only when needed

        return FolderRemote(url)
    if parts.scheme in {"http", "https"} and parts.hostname:
        if parts.username is not None or parts.password is not None:
            raise UsageError(
                "an address with a password in it would be seen by every user of this machine",
                hint="Put the password into ~/.netrc, and leave it out of the address.",
            )
        from llcuda.storage.http_remote import HttpRemote  # noqa: PLC0415 - loaded only when needed

        return HttpRemote(url)
    raise UsageError(f"{url!r} is not the address of a remote", hint=f"It begins with {_SCHEMES}.")
