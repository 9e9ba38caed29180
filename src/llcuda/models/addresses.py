"""Download a model from an address into the store, once it is seen to be one."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from llcuda.errors import ChecksumMismatchError, ModelFormatError
from llcuda.gguf import read_gguf, require_magic
from llcuda.store.download import STALL_TIMEOUT, download, forget_partial, lock_partial

if TYPE_CHECKING:
    from pathlib import Path

    from llcuda.models.names import UrlName
    from llcuda.store import ModelStore

__all__ = ["fetch_url"]


def fetch_url(name: UrlName, store: ModelStore, *, progress: bool = True, stall_timeout: float = STALL_TIMEOUT) -> str:
    """Download the file, check that it is a whole GGUF file, put it into the store, and return its digest.

    What was downloaded before, by this process or another, is kept and resumed if the server says that the file is the
    same. Two processes do not download the same file twice. Raises DownloadError, ModelFormatError if it is no GGUF
    file, ChecksumMismatchError if its digest is not the one in the name, and ModelError on a full disk.
    """
    with lock_partial(store.root / "downloads", name.url) as part:
        known = store.get_link(name.url)
        if known and name.digest in {None, known}:
            return known
        check = functools.partial(require_magic, name=name.url)
        download(name.url, part, check_start=check, progress=progress, stall_timeout=stall_timeout)
        return _check_and_adopt(name, part, store)


def _check_and_adopt(name: UrlName, part: Path, store: ModelStore) -> str:
    try:
        read_gguf(part)
        digest = store.adopt(part, expected=name.digest)
    except ModelFormatError as error:
        forget_partial(part)
        raise ModelFormatError(name.url, error.reason, offset=error.offset, hint=error.hint) from None
    except ChecksumMismatchError as error:
        forget_partial(part)
        raise ChecksumMismatchError(name.url, expected=error.expected, actual=error.actual) from None
    store.link(name.url, digest)
    forget_partial(part)
    return digest
