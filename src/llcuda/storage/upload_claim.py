"""Who of several clients sends a large object, so that it is sent once.

A claim is a small object beside the one that is to come. Who creates it, which only one can, sends the object and keeps
the claim new; the others wait until the object is there, or until nobody keeps the claim new any more.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from obstore.store import ObjectStore

__all__ = ["claim_upload"]

_SUFFIX = ".uploading"
_RENEWED_AFTER = 10.0
_ABANDONED_AFTER = 60.0
_LOOK_AGAIN_AFTER = 1.0


@contextlib.contextmanager
def claim_upload(store: ObjectStore, key: str, *, is_there: Callable[[], bool]) -> Iterator[bool]:
    """Yield True to the client that is to send an object; to another one False, when ``is_there`` says that it came."""
    claim = f"{key}{_SUFFIX}"
    while not _create(store, claim):
        if _wait(store, claim, is_there):
            yield False
            return
    ended = threading.Event()
    renewing = threading.Thread(target=_renew, args=(store, claim, ended), daemon=True)
    renewing.start()
    try:
        yield True
    finally:
        ended.set()
        renewing.join()
        with contextlib.suppress(Exception):
            store.delete(claim)


def _create(store: ObjectStore, claim: str) -> bool:
    from obstore.exceptions import AlreadyExistsError  # noqa: PLC0415 - loaded only when needed

    try:
        store.put(claim, secrets.token_bytes(16), mode="create")
    except AlreadyExistsError:
        return False
    return True


def _wait(store: ObjectStore, claim: str, is_there: Callable[[], bool]) -> bool:
    """Wait for the object, and tell whether it came; if its client is gone, the claim is free again."""
    seen, since = None, time.monotonic()
    while True:
        if is_there():
            return True
        try:
            tag = store.head(claim)["e_tag"]
        except FileNotFoundError:
            return is_there()
        if tag != seen:
            seen, since = tag, time.monotonic()
        elif time.monotonic() - since > _ABANDONED_AFTER:
            with contextlib.suppress(FileNotFoundError):
                store.delete(claim)
            return False
        time.sleep(_LOOK_AGAIN_AFTER)


def _renew(store: ObjectStore, claim: str, ended: threading.Event) -> None:
    while not ended.wait(_RENEWED_AFTER):
        with contextlib.suppress(Exception):
            store.put(claim, secrets.token_bytes(16), use_multipart=False)
