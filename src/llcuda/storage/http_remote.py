"""An HTTP server that takes PUT as a remote: WebDAV, nginx with its DAV module, SeaweedFS's filer.

Passwords come from ``~/.netrc``, which requests reads, and from nowhere else.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import time
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit
from xml.etree import ElementTree as ET

from llcuda.errors import DownloadError, StorageError
from llcuda.store.download import Download, fetch_small
from llcuda.store.progress_bar import show_bar

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import requests

__all__ = ["HttpRemote"]

_ATTEMPTS = 5
_FIRST_PAUSE = 0.5
_TIMEOUT = (10.0, 60.0)
_PIECE_BYTES = 1 << 18
_MAX_LISTING_BYTES = 16 << 20
_OK, _CREATED, _NO_CONTENT, _MULTI_STATUS = 200, 201, 204, 207
_NOT_FOUND, _NOT_ALLOWED, _CONFLICT = 404, 405, 409
_SERVER_ERROR = 500
_ANY_ANSWER = tuple(range(_OK, _SERVER_ERROR))
_MISSING = frozenset({_NOT_FOUND, 410})
_NO_FOLDER = frozenset({_NOT_FOUND, _CONFLICT})
_HINTS = {
    **dict.fromkeys((401, 403), "The server needs a login: put it into ~/.netrc."),
    **dict.fromkeys((_NOT_ALLOWED, 501), "The server takes no PUT: it needs WebDAV, or to be SeaweedFS's filer."),
    **dict.fromkeys((413,), "Let the server take larger bodies: client_max_body_size 0 with nginx."),
    **dict.fromkeys((507,), "The server's disk is full."),
}

_log = logging.getLogger("llcuda")


class _Body(io.RawIOBase):
    """A file as the body of a request, whose pieces a bar counts."""

    def __init__(self, file: io.BufferedReader, size: int, bar: Any) -> None:
        self._file, self._size, self._bar = file, size, bar

    def __len__(self) -> int:
        return self._size

    def read(self, size: int = -1) -> bytes:
        piece = self._file.read(_PIECE_BYTES if size < 0 else size)
        self._bar.update(len(piece))
        return piece

    def close(self) -> None:
        self._file.close()


class HttpRemote:
    """The files under an address."""

    def __init__(self, url: str) -> None:
        """Use an address. Nothing is asked before something is wanted."""
        self.url = url.rstrip("/")

    def _address(self, key: str) -> str:
        return f"{self.url}/{quote(key)}"

    def find_bytes(self, key: str) -> int | None:
        """Return how many bytes a file has, or None if there is none."""
        with self._ask("HEAD", self._address(key), fine=(_OK, *_MISSING)) as answer:
            if answer.status_code in _MISSING:
                return None
            length = answer.headers.get("content-length", "")
        if not length.isdecimal():
            raise StorageError(f"{self._address(key)}: the server does not say how long it is")
        return int(length)

    def read(self, key: str, *, max_bytes: int) -> bytes | None:
        """Return a small file, or None if there is none."""
        try:
            answer, data = fetch_small(self._address(key), max_bytes=max_bytes)
        except DownloadError as error:
            raise StorageError(str(error), hint=error.hint) from None
        if answer.status in _MISSING:
            return None
        if answer.status != _OK:
            raise self._refuse(self._address(key), answer.status)
        return data

    def fetch(self, key: str, part: Path, *, is_shown: bool) -> None:
        """Download a file, from where an earlier attempt has ended."""
        Download(self._address(key), part, shown=is_shown).run()

    def put(self, key: str, file: Path, *, is_shown: bool) -> None:
        """Upload a file; if the connection breaks, from its beginning again."""
        size = file.stat().st_size
        with show_bar(PurePosixPath(key).name, size, is_shown=is_shown, delay=1.0) as bar:

            def open_body() -> _Body:
                bar.reset()
                return _Body(file.open("rb"), size, bar)

            self._put(key, open_body)

    def write(self, key: str, data: bytes) -> None:
        """Upload a small file."""
        self._put(key, lambda: data)

    def _put(self, key: str, open_body: Any) -> None:
        address = self._address(key)
        fine = (_OK, _CREATED, _NO_CONTENT, *_NO_FOLDER)
        with self._ask("PUT", address, fine=fine, open_body=open_body) as answer:
            is_kept = answer.status_code not in _NO_FOLDER
        if not is_kept:
            # Of WebDAV's servers some make no folders by themselves; what is above ours may be closed to us.
            parts = urlsplit(address)
            for folder in reversed(PurePosixPath(parts.path).parents[:-1]):
                with self._ask("MKCOL", parts._replace(path=f"{folder}/").geturl(), fine=_ANY_ANSWER):
                    pass
            with self._ask("PUT", address, fine=fine[:3], open_body=open_body):
                pass

    def list_names(self, folder: str) -> list[str]:
        """Return the names in a folder: as SeaweedFS lists them, as nginx does in JSON, or as WebDAV does."""
        address = f"{self._address(folder)}/"
        names: list[str] = []
        last = ""
        while True:
            page = f"?limit=1000&lastFileName={quote(last, safe='')}"
            try:
                answer, data = fetch_small(
                    address + page, max_bytes=_MAX_LISTING_BYTES, headers={"Accept": "application/json"}
                )
            except DownloadError as error:
                raise StorageError(str(error), hint=error.hint) from None
            if answer.status in _MISSING:
                return []
            given = _read_json(data)
            if type(given) is list:
                return [str(one["name"]) for one in given if type(one) is dict and "name" in one]
            if type(given) is not dict or "Entries" not in given:
                return self._list_webdav(address)
            names += [PurePosixPath(str(one["FullPath"])).name for one in given["Entries"] or ()]
            if not given.get("ShouldDisplayLoadMore") or not names or names[-1] == last:
                return names
            last = names[-1]

    def _list_webdav(self, address: str) -> list[str]:
        with self._ask("PROPFIND", address, fine=(_MULTI_STATUS, *_MISSING), headers={"Depth": "1"}) as answer:
            if answer.status_code in _MISSING:
                return []
            data = answer.raw.read(_MAX_LISTING_BYTES + 1, decode_content=True)
        try:
            tree = ET.fromstring(data[:_MAX_LISTING_BYTES])  # noqa: S314 - bounded; expat bounds entities
        except ET.ParseError as error:
            raise StorageError(f"{address}: the listing cannot be read: {error}") from None
        own = unquote(urlsplit(address).path).rstrip("/")
        paths = (unquote(urlsplit(one.text or "").path).rstrip("/") for one in tree.iter("{DAV:}href"))
        return [PurePosixPath(path).name for path in paths if path != own]

    @contextlib.contextmanager
    def _ask(
        self,
        method: str,
        address: str,
        *,
        fine: tuple[int, ...],
        open_body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> Iterator[requests.Response]:
        """Yield the answer to a request, which is asked again if the server is not there. Raises StorageError."""
        import requests  # noqa: PLC0415 - loaded only when needed

        reason, status = "", 0
        for attempt in range(1, _ATTEMPTS + 1):
            body = open_body() if open_body else None
            try:
                # Of a compressed answer the length would be another than the file's.
                sent = {"Accept-Encoding": "identity", **(headers or {})}
                answer = requests.request(
                    method, address, data=body, headers=sent, timeout=_TIMEOUT, allow_redirects=False, stream=True
                )
            except requests.exceptions.RequestException as error:
                reason, status = str(error), 0
            else:
                reason, status = f"the server answers {answer.status_code}", answer.status_code
                if status in fine:
                    with answer:
                        yield answer
                    return
                answer.close()
            finally:
                if isinstance(body, _Body):
                    body.close()
            if status and status < _SERVER_ERROR:
                raise self._refuse(address, status)
            if attempt < _ATTEMPTS:
                _log.warning("%s: %s; trying again", address, reason)
                time.sleep(_FIRST_PAUSE * 2 ** (attempt - 1))
        raise StorageError(f"{address}: {reason}", hint=_HINTS.get(status, "Check the address and the network."))

    def _refuse(self, address: str, status: int) -> StorageError:
        hint = _HINTS.get(status, "Check the address of the remote.")
        return StorageError(f"{address}: the server answers {status}", hint=hint)


def _read_json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
