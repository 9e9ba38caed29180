"""The owner of a gateway without keys: whoever opens the link that it shows at its terminal, which nobody else reads.

The link's key stands behind the ``#``, which a browser sends to nobody, and is good once: the page changes it for a key
of its own. So it is worth nothing in a browser's history. Who shows a used one gets a new link, at the terminal.
"""

from __future__ import annotations

import secrets
from collections import deque
from hashlib import sha256
from hmac import compare_digest
from typing import TYPE_CHECKING

from llcuda.fleet.refusals import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Owner", "digest_key"]

_REMEMBERED = 16


class Owner:
    """The link that is open, and the keys that were given for those before. It holds digests, and no key."""

    def __init__(self, tell: Callable[[str], object] | None) -> None:
        """Have nobody own it yet; ``tell`` is given each link, and without it there is none."""
        self._tell = tell
        self._address = ""
        self._open: deque[bytes] = deque(maxlen=1)
        self._used: deque[bytes] = deque(maxlen=_REMEMBERED)
        self._keys: deque[bytes] = deque(maxlen=_REMEMBERED)

    def offer(self, address: str) -> None:
        """Tell a new link to the page at ``address``."""
        if self._tell is not None:
            self._address, key = address, secrets.token_urlsafe(32)
            self._open.append(digest_key(key))
            self._tell(f"{address}/#key={key}")

    def claim(self, key: str) -> str:
        """Return the page's key for that of the open link. Raises RefusedError (403) for every other one."""
        if _is_among(key, self._open):
            self._used.append(self._open.pop())
            given = secrets.token_urlsafe(32)
            self._keys.append(digest_key(given))
            return given
        if not _is_among(key, self._used):
            raise RefusedError(403, "this link is not one of this gateway's, since it was started", code="unknown_link")
        if not self._open:
            self.offer(self._address)
        message = "this link was opened before; the terminal in which llcuda serve runs shows a new one"
        raise RefusedError(403, message, code="used_link")

    def has_given(self, key: str) -> bool:
        """Return whether it is the key of a page."""
        return _is_among(key, self._keys)


def _is_among(key: str, digests: Iterable[bytes]) -> bool:
    # All are compared, each in constant time.
    return sum(compare_digest(digest_key(key), known) for known in digests) > 0


def digest_key(key: str) -> bytes:
    """Return what is kept of a key: of one length whatever the key's, so that comparing takes one time."""
    return sha256(key.encode("utf-8", "surrogatepass")).digest()
