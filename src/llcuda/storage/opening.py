"""The remote at an address, by its scheme."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from llcuda.errors import UsageError
from llcuda.storage.keyed_remote import KeyedRemote
from llcuda.storage.mirrored_remote import MirroredRemote
from llcuda.store.references import split_reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llcuda.storage.remote import Remote

__all__ = ["open_remote"]

_SCHEMES = "file://, http://, https://, s3://, gs://, az:// or oci://"
_HOSTED = frozenset({"http", "https", "s3", "gs", "az"})


def open_remote(url: str | Sequence[str]) -> Remote:
    """Return the remote at an address, or at several with the same models: the others are mirrors of the first.

    Raises UsageError for an address that cannot be, for one that has a password in it, and if the library that reaches
    it is not installed.
    """
    urls = [url] if isinstance(url, str) else url
    remotes = [_open(one) for one in urls]
    if not remotes:
        raise UsageError("no address of a remote is given", hint=f"It begins with {_SCHEMES}.")
    return remotes[0] if len(remotes) == 1 else MirroredRemote(remotes)


def _open(url: str) -> Remote:
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise UsageError(
            "an address with a password in it would be seen by every user of this machine",
            hint="Put the password into ~/.netrc, or where the library of its scheme looks, and leave it out.",
        )
    if parts.scheme == "file" and parts.netloc in {"", "localhost"} and parts.path.startswith("/"):
        from llcuda.storage.folder_files import FolderFiles  # noqa: PLC0415 - loaded only when needed

        return KeyedRemote(FolderFiles(url))
    if parts.scheme in {"oci", "oci+http"}:
        return _open_registry(url)
    if parts.scheme in _HOSTED and parts.hostname:
        return _open_hosted(url, parts.scheme)
    if "://" in url and "::" not in url and parts.scheme not in {*_HOSTED, "file"} and _is_known(parts.scheme):
        from llcuda.storage.fsspec_files import FsspecFiles  # noqa: PLC0415 - loaded only when needed

        return KeyedRemote(FsspecFiles(url))
    hint = f"It begins with {_SCHEMES}; with fsspec installed, also with what that knows."
    raise UsageError(f"{url!r} is not the address of a remote", hint=hint)


def _open_hosted(url: str, scheme: str) -> Remote:
    if scheme in {"http", "https"}:
        from llcuda.storage.http_files import HttpFiles  # noqa: PLC0415 - loaded only when needed

        return KeyedRemote(HttpFiles(url))
    if importlib.util.find_spec("obstore") is None:
        raise UsageError(f"{scheme}:// needs obstore", hint="Install it: pip install 'llcuda[remote]'")
    from llcuda.storage.object_files import ObjectFiles  # noqa: PLC0415 - loaded only when needed

    return KeyedRemote(ObjectFiles(url))


def _open_registry(url: str) -> Remote:
    from llcuda.storage.oci_remote import OciRemote  # noqa: PLC0415 - loaded only when needed

    repository, reference = split_reference(url)
    if reference is not None:
        raise UsageError(
            f"{url!r} is the address of one model, not of a remote",
            hint=f"Leave it at {repository}, or name the model so: `llcuda models pull {url}`.",
        )
    return OciRemote(repository)


def _is_known(scheme: str) -> bool:
    """Return whether fsspec is installed and knows the scheme."""
    if importlib.util.find_spec("fsspec") is None:
        return False
    from fsspec import available_protocols  # noqa: PLC0415 - loaded only when needed

    return scheme in available_protocols()
