"""Requests to servers of files: asked again if a server is not there, and never believed more than its bytes."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from typing import TYPE_CHECKING, Any

from llcuda.errors import DownloadError, StorageError
from llcuda.storage.remote import InterruptedTransferError, RangesRefusedError
from llcuda.store.download import CONNECT_TIMEOUT, STALL_TIMEOUT, Pace, follow_redirects, open_session, read_pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import requests

__all__ = ["FOUND", "MISSING", "HttpRequests"]

_ATTEMPTS = 6
_FIRST_PAUSE = 0.5
_SERVER_ERROR = 500
_PARTIAL, _UNAUTHORISED = 206, 401
_BUSY = frozenset({408, 425, 429})
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(?:\d{1,18}|\*)")

_CONNECTION = re.compile(r"^<?HTTPS?Connection[^:]*?\)?>?: |^HTTPS?Connection\([^)]*\): ")
_MAX_DIGITS = 18
"""No file is larger."""

FOUND = 200
MISSING = frozenset({404, 410})

_log = logging.getLogger("llcuda")


class HttpRequests:
    """Requests to the servers of one remote, over connections that are kept."""

    def __init__(
        self,
        hints: Mapping[int, str] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        authorise: Callable[[requests.Response], Mapping[str, str]] | None = None,
    ) -> None:
        """Explain statuses by ``hints``, and send ``headers`` with each request; a key among them goes nowhere else.

        If the server answers 401, ``authorise`` returns the headers that it wants in their place.
        """
        self._hints = hints or {}
        self._authorise = authorise
        self._credentials = dict(headers or {})
        self._targets: dict[str, str] = {}
        self._session: requests.Session | None = None

    @contextlib.contextmanager
    def ask(
        self,
        method: str,
        address: str,
        *,
        fine: tuple[int, ...],
        open_body: Callable[[], Any] | None = None,
        headers: Mapping[str, str] | None = None,
        attempts: int = _ATTEMPTS,
    ) -> Iterator[requests.Response]:
        """Yield the answer to a request, its body unread; it is asked again if the server is not there.

        ``open_body`` gives the body of each attempt. Raises StorageError for any status that is not ``fine``.
        """
        reason, status = "", 0
        for attempt in range(1, attempts + 1):
            try:
                answer = self._send(method, address, open_body=open_body, headers=headers or {})
            except DownloadError as error:
                raise StorageError(str(error), hint=error.hint) from None
            except _errors() as error:
                reason, status = describe_failure(error), 0
            else:
                reason, status = f"the server answers {answer.status_code}", answer.status_code
                if status in fine:
                    with answer:
                        yield answer
                    return
                answer.close()
            if status and status < _SERVER_ERROR and status not in _BUSY:
                break
            if attempt < attempts:
                _log.warning("%s: %s; trying again", address, reason)
                time.sleep(_FIRST_PAUSE * 2 ** (attempt - 1))
        raise self.refuse(address, status, reason)

    def find_bytes(self, address: str) -> int | None:
        """Return how many bytes a file has, or None if there is none. Raises StorageError."""
        with self.ask("HEAD", address, fine=(FOUND, *MISSING)) as answer:
            if answer.status_code in MISSING:
                return None
            length = answer.headers.get("content-length", "")
        if not length.isdecimal() or len(length) > _MAX_DIGITS:
            raise StorageError(f"{address}: the server does not say how long it is")
        return int(length)

    def read_range(self, address: str, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes of a file from ``start`` to ``end``, which are all or fewer than asked for.

        If the server sends its clients to another, that is asked for the next range at once. Raises RangesRefusedError
        if the server sends the file from its beginning, InterruptedTransferError for what may go well the next time,
        and StorageError.
        """
        target, session = self._targets.get(address, address), self._open()
        sent = {**self._credentials, "Accept-Encoding": "identity", "Range": f"bytes={start}-{end - 1}"}
        if session.should_strip_auth(address, target):  # type: ignore[no-untyped-call]
            sent = {name: value for name, value in sent.items() if name.lower() != "authorization"}
        try:
            with follow_redirects(session, target, headers=sent) as answer:
                if answer.status_code == _UNAUTHORISED and self._authorise:
                    self._credentials = dict(self._authorise(answer))
                    raise InterruptedTransferError(f"{address}: the server wants a login anew")
                if target != address and answer.status_code not in {FOUND, _PARTIAL}:
                    self._targets.pop(address, None)
                    raise InterruptedTransferError(f"{address}: the server that has it answers {answer.status_code}")
                self._require_range(address, answer, start)
                self._targets[address] = answer.url
                yield from _limit(read_pieces(answer), end - start)
        except DownloadError as error:
            raise StorageError(str(error), hint=error.hint) from None
        except _errors() as error:
            self._targets.pop(address, None)
            raise InterruptedTransferError(f"{address}: {describe_failure(error)}") from None

    def read_small(self, answer: requests.Response, address: str, *, max_bytes: int) -> bytes:
        """Return the body of an answer. Raises StorageError if it has more than ``max_bytes`` or does not come."""
        data, pace = bytearray(), Pace(STALL_TIMEOUT)
        try:
            for piece in read_pieces(answer):
                data += piece
                pace.require(len(data))
                if len(data) > max_bytes:
                    raise StorageError(f"{address} has more than {max_bytes} bytes")
        except _errors() as error:
            raise StorageError(f"{address}: {describe_failure(error)}") from None
        return bytes(data)

    def refuse(self, address: str, status: int, reason: str = "") -> StorageError:
        """Return the error of a status."""
        hint = self._hints.get(status, "Check the address of the remote and the network.")
        error = StorageError(f"{address}: {reason or f'the server answers {status}'}", hint=hint)
        error.status = status or None
        return error

    def _open(self) -> requests.Session:
        self._session = self._session or open_session()
        return self._session

    def _send(
        self, method: str, address: str, *, open_body: Callable[[], Any] | None, headers: Mapping[str, str]
    ) -> requests.Response:
        answer = self._send_once(method, address, open_body=open_body, headers=headers)
        if answer.status_code != _UNAUTHORISED or self._authorise is None:
            return answer
        with answer:
            self._credentials = dict(self._authorise(answer))
        return self._send_once(method, address, open_body=open_body, headers=headers)

    def _send_once(
        self, method: str, address: str, *, open_body: Callable[[], Any] | None, headers: Mapping[str, str]
    ) -> requests.Response:
        # Of a compressed answer the length would be another than the file's.
        sent = {"Accept-Encoding": "identity", **self._credentials, **headers}
        if method == "HEAD":
            return follow_redirects(self._open(), address, headers=sent, method=method)
        with contextlib.closing(open_body()) if open_body else contextlib.nullcontext() as body:
            return self._open().request(
                method, address, data=body, headers=sent, timeout=(CONNECT_TIMEOUT, STALL_TIMEOUT),
                allow_redirects=False, stream=True,
            )  # fmt: skip

    def _require_range(self, address: str, answer: requests.Response, start: int) -> None:
        status = answer.status_code
        if status == FOUND and start:
            raise RangesRefusedError("the server sends no parts of a file")
        if status in _BUSY or status >= _SERVER_ERROR:
            raise InterruptedTransferError(f"{address}: the server answers {status}")
        if status not in {FOUND, _PARTIAL}:
            raise self.refuse(address, status)
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise StorageError(f"{address}: the server sends it encoded as {answer.headers['content-encoding'][:40]}")
        if status == _PARTIAL:
            found = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
            if found is None or int(found[1]) != start:
                raise StorageError(f"{address}: the server sends another part of the file than the one asked for")


def _limit(pieces: Iterator[bytes], count: int) -> Iterator[bytes]:
    """Yield as many bytes as were asked for, and read to the end, so that the connection is used again."""
    for piece in pieces:
        wanted, count = piece[:count], count - len(piece)
        if wanted:
            yield wanted
        if count < 0:
            return


def describe_failure(error: BaseException) -> str:
    """Return what lies behind an error of requests, which wraps urllib3's, which wraps the system's."""
    while True:
        inner = getattr(error, "reason", None) or next(iter(error.args), None)
        if not isinstance(inner, BaseException):
            return _CONNECTION.sub("", str(error))
        error = inner


def _errors() -> tuple[type[Exception], ...]:
    import requests  # noqa: PLC0415 - loaded only when needed
    import urllib3  # noqa: PLC0415

    return (requests.exceptions.RequestException, urllib3.exceptions.HTTPError)
