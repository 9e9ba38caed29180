"""An HTTP server that takes PUT as a remote: WebDAV, nginx with its DAV module, SeaweedFS's filer.

Passwords come from ``~/.netrc``, which requests reads, and from nowhere else.
"""

from __future__ import annotations

import io
import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit
from xml.etree import ElementTree as ET

from llcuda.errors import StorageError
from llcuda.storage.http_requests import FOUND, MISSING, HttpRequests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from llcuda.storage.pieces import Upload

__all__ = ["HttpFiles"]

_MAX_LISTING_BYTES = 16 << 20
_CREATED, _NO_CONTENT, _MULTI_STATUS = 201, 204, 207
_NOT_FOUND, _NOT_ALLOWED, _CONFLICT = 404, 405, 409
_KEPT = (FOUND, _CREATED, _NO_CONTENT)
_NO_FOLDER = (_NOT_FOUND, _CONFLICT)
_ANY_ANSWER = tuple(range(FOUND, 500))
_HINTS = {
    **dict.fromkeys((401, 403), "The server needs a login: put it into ~/.netrc."),
    **dict.fromkeys((_NOT_ALLOWED, 501), "The server takes no PUT: it needs WebDAV, or to be SeaweedFS's filer."),
    **dict.fromkeys((413,), "Let the server take larger bodies: client_max_body_size 0 with nginx."),
    **dict.fromkeys((507,), "The server's disk is full."),
}


class HttpFiles:
    """The files under an address."""

    def __init__(self, url: str) -> None:
        """Use an address. Nothing is asked before something is wanted."""
        self.url = url.rstrip("/")
        self._requests = HttpRequests(_HINTS)

    def _address(self, key: str) -> str:
        return f"{self.url}/{quote(key)}"

    def find_bytes(self, key: str) -> int | None:
        """Return how many bytes a file has, or None if there is none."""
        return self._requests.find_bytes(self._address(key))

    def read_range(self, key: str, start: int, end: int) -> Iterator[bytes]:
        """Yield a part of a file."""
        return self._requests.read_range(self._address(key), start, end)

    def put(self, key: str, upload: Upload) -> None:
        """Upload a file; if the connection breaks, from its beginning again."""
        self._put(key, upload.open)

    def write(self, key: str, data: bytes) -> None:
        """Upload a small file."""
        self._put(key, lambda: io.BytesIO(data))

    def _put(self, key: str, open_body: Callable[[], Any]) -> None:
        address = self._address(key)
        with self._requests.ask("PUT", address, fine=(*_KEPT, *_NO_FOLDER), open_body=open_body) as answer:
            is_kept = answer.status_code not in _NO_FOLDER
        if not is_kept:
            # Of WebDAV's servers some make no folders by themselves; what is above ours may be closed to us.
            parts = urlsplit(address)
            for folder in reversed(PurePosixPath(parts.path).parents[:-1]):
                with self._requests.ask("MKCOL", parts._replace(path=f"{folder}/").geturl(), fine=_ANY_ANSWER):
                    pass
            with self._requests.ask("PUT", address, fine=_KEPT, open_body=open_body):
                pass

    def list_names(self, folder: str) -> list[str]:
        """Return the names in a folder: as SeaweedFS lists them, as nginx does in JSON, or as WebDAV does."""
        address = f"{self._address(folder)}/"
        names: list[str] = []
        last = ""
        while True:
            given = self._read_listing(f"{address}?limit=1000&lastFileName={quote(last, safe='')}")
            if given is None:
                return []
            if type(given) is list:
                return [str(one["name"]) for one in given if type(one) is dict and "name" in one]
            if type(given) is not dict or "Entries" not in given:
                return self._list_webdav(address)
            names += [PurePosixPath(str(one["FullPath"])).name for one in given["Entries"] or ()]
            if not given.get("ShouldDisplayLoadMore") or not names or names[-1] == last:
                return names
            last = names[-1]

    def _read_listing(self, address: str) -> Any:
        """Return a listing as JSON, False if it is none, or None if there is no folder."""
        fine = (*_ANY_ANSWER, 501)
        with self._requests.ask("GET", address, fine=fine, headers={"Accept": "application/json"}) as answer:
            if answer.status_code in MISSING:
                return None
            data = self._requests.read_small(answer, address, max_bytes=_MAX_LISTING_BYTES)
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            return False

    def _list_webdav(self, address: str) -> list[str]:
        fine = (_MULTI_STATUS, *MISSING)
        with self._requests.ask("PROPFIND", address, fine=fine, headers={"Depth": "1"}) as answer:
            if answer.status_code in MISSING:
                return []
            data = self._requests.read_small(answer, address, max_bytes=_MAX_LISTING_BYTES)
        try:
            tree = ET.fromstring(data)  # noqa: S314 - bounded; expat bounds entities
        except ET.ParseError as error:
            raise StorageError(f"{address}: the listing cannot be read: {error}") from None
        own = unquote(urlsplit(address).path).rstrip("/")
        paths = (unquote(urlsplit(one.text or "").path).rstrip("/") for one in tree.iter("{DAV:}href"))
        return [PurePosixPath(path).name for path in paths if path != own]
