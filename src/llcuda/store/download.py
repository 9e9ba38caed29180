"""Download a file from an address: resumed, by whichever process, and never taken for whole when it is not.

The server is not trusted, and requests is not left alone with it: it would read the body of a redirect to its end,
decode what was compressed, and wait for ever for what trickles. All that is read has a bound, in bytes and in time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import shutil
import time
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from types import NoneType
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urljoin, urlsplit

from llcuda.errors import DownloadError
from llcuda.store.atomic_files import place_file, sync, writing
from llcuda.store.progress_bar import show_bar
from llcuda.store.resumption import Action, DownloadProgress, ServerAnswer, decide, request_headers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import requests

CONNECT_TIMEOUT = 10.0
STALL_TIMEOUT = 30.0
MAX_FUTILE_ATTEMPTS = 5
"""Attempts in a row that bring the file hardly further than it was."""
MAX_UNSTATED_BYTES = 64 << 30
"""Of a file whose server does not say how long it is: models that are larger are published in parts."""
RESERVE_BYTES = 256 << 20
"""What is left free on the disk."""
_START_BYTES = 16
_SLOWEST = 1000
"""Bytes a second below which even a small model would take days."""
_SMALL_TIMEOUT = 60.0
_CHUNK_BYTES = 1 << 16
"""What a broken connection can lose."""
_MAX_REDIRECTS = 10
_NOTES = (".json", ".chunks")
_MAX_CONNECTIONS = 16
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NOTED_KINDS = frozenset({(int, str), (int, NoneType), (NoneType, str), (NoneType, NoneType)})
_FIRST_PAUSE = 0.5
_HINTS = {
    **dict.fromkeys((401, 403), "The address needs a login: download the file with your browser and give its path."),
    **dict.fromkeys((404, 410), "Check the address: there is no such file on the server."),
}
_OK = 200

_log = logging.getLogger("llcuda")


@contextlib.contextmanager
def lock_partial(folder: Path, url: str) -> Iterator[Path]:
    """Yield the path in ``folder`` of the partial file of ``url``, which no other process writes meanwhile."""
    part = folder / hashlib.sha256(url.encode()).hexdigest()
    with writing(part):
        part.parent.mkdir(parents=True, exist_ok=True)
        file = part.with_suffix(".lock").open("wb")
    with file:
        with writing(part):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield part


def fetch_small(url: str, *, max_bytes: int, headers: Mapping[str, str] | None = None) -> tuple[ServerAnswer, bytes]:
    """Return the answer to one request, and its body if the status is 200.

    Raises DownloadError, also if the body has more than ``max_bytes`` or takes longer than a minute.
    """
    import requests  # noqa: PLC0415 - loaded only when needed
    import urllib3  # noqa: PLC0415

    sent = {**(headers or {}), **request_headers(DownloadProgress())}
    try:
        with open_session() as session, follow_redirects(session, url, headers=sent) as response:
            answer = _to_answer(response)
            if answer.status != _OK:
                return answer, b""
            if (step := decide(answer, DownloadProgress())).action is Action.FAIL:
                raise DownloadError(url, step.reason)
            return answer, _read_small(url, response, max_bytes)
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
        raise DownloadError(url, str(error), hint="Check the address and the network, and try again.") from error


def _read_small(url: str, response: requests.Response, max_bytes: int) -> bytes:
    data, deadline = bytearray(), time.monotonic() + _SMALL_TIMEOUT
    for piece in read_pieces(response):
        data += piece
        if len(data) > max_bytes:
            raise DownloadError(url, f"more than {max_bytes} bytes come", hint="Check the address.")
        if time.monotonic() > deadline:
            raise DownloadError(url, f"it comes too slowly: {len(data)} bytes in {_SMALL_TIMEOUT:.0f} s")
    return bytes(data)


def forget_partial(part: Path) -> None:
    """Remove a partial file, or a whole one that nobody needs, and what was noted of it, if the disk lets it."""
    for path in (part, *map(part.with_suffix, _NOTES)):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def forget_abandoned(folder: Path, *, age: float) -> int:
    """Remove partial files that nobody has written to for ``age`` seconds, and return the bytes that this freed."""
    return sum(_forget_if_abandoned(lock, age) for lock in folder.glob("*.lock"))


def _forget_if_abandoned(lock: Path, age: float) -> int:
    part = lock.with_suffix("")
    with contextlib.suppress(OSError), lock.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        states = [path.stat() for path in (part, *map(part.with_suffix, _NOTES)) if path.exists()]
        if states and time.time() - max(state.st_mtime for state in states) > age:
            forget_partial(part)
            return sum(state.st_blocks * 512 for state in states)
    return 0


def open_session() -> requests.Session:
    """Return a session that several threads may use, and that follows no redirect."""
    import requests  # noqa: PLC0415 - loaded only when needed

    class Session(requests.Session):
        def get_redirect_target(self, _: requests.Response) -> None:
            """See no redirects: before one is followed, or not, requests reads the whole body that came with it."""

    session = Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=_MAX_CONNECTIONS))
    return session


def follow_redirects(
    session: requests.Session,
    url: str,
    *,
    headers: Mapping[str, str],
    stall_timeout: float = STALL_TIMEOUT,
    method: str = "GET",
) -> requests.Response:
    """Return the answer with its body unread, after redirects; each is looked at before it is followed."""
    sent, target = dict(headers), url
    for _ in range(_MAX_REDIRECTS + 1):
        response = session.request(
            method, target, headers=sent, stream=True, timeout=(CONNECT_TIMEOUT, stall_timeout), allow_redirects=False
        )
        location = response.headers.get("location")
        if response.status_code not in _REDIRECTS or location is None:
            return response
        response.close()
        following = _join(url, target, location)
        if session.should_strip_auth(target, following):  # type: ignore[no-untyped-call]
            sent = {name: value for name, value in sent.items() if name.lower() != "authorization"}
        target = following
    raise DownloadError(url, f"it is redirected more than {_MAX_REDIRECTS} times", hint="Check the address.")


def _join(url: str, target: str, location: str) -> str:
    """Return where a redirect from ``target`` leads to."""
    try:
        following = urljoin(target, location.encode("latin-1").decode())
    except ValueError:
        following = ""
    if not following.lower().startswith(("http://", "https://")):
        raise DownloadError(
            url, f"it is redirected to {location[:200]!r}, which is no address", hint="Check the address."
        )
    if target.lower().startswith("https:") and not following.lower().startswith("https:"):
        raise DownloadError(
            url, f"it is redirected to {following[:200]}, which is not encrypted", hint="Check the address."
        )
    if urlsplit(following).hostname != urlsplit(target).hostname and _is_link_local(following):
        raise DownloadError(
            url, f"it is redirected to {following[:200]}, an address of this machine's own network alone",
            hint="A cloud keeps its machines' credentials there. Check the address.",
        )  # fmt: skip
    return following


def _is_link_local(url: str) -> bool:
    """Return whether the host of an address is one that no router passes on, however it is written."""
    import ipaddress  # noqa: PLC0415 - loaded only when needed
    import socket  # noqa: PLC0415

    try:
        parts = urlsplit(url)
        found = socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        return False  # it will be refused, or not be found
    addresses = (ipaddress.ip_address(str(one[4][0]).partition("%")[0]) for one in found)
    return any((getattr(address, "ipv4_mapped", None) or address).is_link_local for address in addresses)


def _to_answer(response: requests.Response) -> ServerAnswer:
    return ServerAnswer(response.status_code, {name.lower(): value for name, value in response.headers.items()})


def read_pieces(response: requests.Response) -> Iterator[bytes]:
    """Yield what has come as soon as it has, and as it is: to decode it could make a thousand times as much of it."""
    read = getattr(response.raw, "read1", response.raw.read)  # urllib3 before 2.2 waits until a piece is full
    while piece := read(_CHUNK_BYTES, decode_content=False):
        yield piece


def require_space(url: str, part: Path, missing: int) -> None:
    """Raise DownloadError if the disk of ``part`` has no room for so many bytes of ``url`` and the reserve."""
    free = shutil.disk_usage(part.parent).free
    if missing + RESERVE_BYTES > free:
        raise DownloadError(
            url,
            f"{missing} bytes are missing and {free} are free in {part.parent}, of which "
            f"{RESERVE_BYTES} are left alone",
            hint="Free some space, or set LLCUDA_HOME (HF_HOME for models of the hub) to a larger disk.",
        )


class Pace:
    """Watches that what comes does not trickle."""

    def __init__(self, seconds: float, received: int = 0) -> None:
        """Look every so many seconds, from the ``received`` bytes that are there."""
        self._seconds = seconds
        self._since = time.monotonic(), received

    def require(self, received: int) -> None:
        """Raise requests' Timeout if too few bytes came since the last look."""
        import requests  # noqa: PLC0415 - loaded only when needed

        now = time.monotonic()
        started, before = self._since
        if now - started < self._seconds:
            return
        if received - before < _SLOWEST * self._seconds:
            raise requests.exceptions.Timeout(
                f"it comes too slowly: {received - before} bytes in {now - started:.1f} s"
            )
        self._since = now, received


@dataclass
class Download:
    """One file's way from ``url`` to ``part``, a path of :func:`lock_partial`; what is there already is resumed.

    It is resumed if the server says that the file is the same, and kept after an error only if it can be.
    """

    url: str
    part: Path
    _: KW_ONLY
    headers: Mapping[str, str] = field(default_factory=dict)
    """They go with each request; a key among them goes to no other server."""
    max_bytes: int | None = None
    check_start: Callable[[bytes], object] | None = None
    """Given the first 16 bytes as soon as they are there; it raises if no such file begins so."""
    shown: bool = True
    """Whether a terminal shows a bar."""
    on_bytes: Callable[[int], object] | None = None
    """Told again and again how many bytes are there."""
    stall_timeout: float = STALL_TIMEOUT
    complete: bool = False

    def __post_init__(self) -> None:
        self.progress = self._read_progress()

    def run(self) -> None:
        """Ask until the file is whole, or until asking brings nothing any more.

        Raises DownloadError, also if too many bytes come or they come too slowly, and ModelError on a full disk.
        """
        try:
            with open_session() as session, writing(self.part), self.part.open("ab") as file:
                self._ask_until_whole(session, file)
        finally:
            if not self.complete and None in {self.progress.validator, self.progress.total}:
                forget_partial(self.part)  # no later attempt could go on there, or tell when it is whole

    def _ask_until_whole(self, session: requests.Session, file: BinaryIO) -> None:
        futile, furthest = 0, self.progress.received
        while True:
            reason = self._attempt(session, file)
            if self.complete:
                sync(file)
                return
            # A server that always starts again brings bytes without end, and none that are new.
            futile = 0 if self.progress.received >= furthest + _CHUNK_BYTES else futile + 1
            furthest = max(furthest, self.progress.received)
            if futile >= MAX_FUTILE_ATTEMPTS:
                raise DownloadError(self.url, reason)
            _log.warning("%s: %s; trying again", self.url, reason)
            time.sleep(_FIRST_PAUSE * 2 ** max(futile - 1, 0) if futile else 0)

    def _attempt(self, session: requests.Session, file: BinaryIO) -> str:
        """Make one request and return why it did not bring the whole file."""
        import requests  # noqa: PLC0415 - loaded only when needed
        import urllib3  # noqa: PLC0415

        sent = {**self.headers, **request_headers(self.progress)}
        try:
            with follow_redirects(session, self.url, headers=sent, stall_timeout=self.stall_timeout) as response:
                return self._follow(response, file)
        except (requests.exceptions.InvalidSchema, requests.exceptions.SSLError, requests.exceptions.InvalidURL,
                requests.exceptions.MissingSchema) as error:  # fmt: skip
            raise DownloadError(self.url, str(error), hint="Check the address.") from error
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
            return str(error)

    def _follow(self, response: requests.Response, file: BinaryIO) -> str:
        answer = _to_answer(response)
        step = decide(answer, self.progress)
        if step.action is Action.FAIL:
            raise DownloadError(self.url, step.reason, status=answer.status, hint=_HINTS.get(answer.status, ""))
        if step.action is Action.RETRY:
            return step.reason
        if step.action is Action.DONE:
            self.complete = True
            return ""
        file.truncate(step.progress.received)
        self._note(step.progress)
        if step.action is Action.AGAIN:
            return "the file on the server has changed"
        self._receive(response, file)
        received, total = self.progress.received, self.progress.total
        # Without a length, only what is in the file can tell whether everything came; who asked for it looks.
        self.complete = total is None or received == total
        return "" if self.complete else f"the connection ended after {received} of {total} bytes"

    def _receive(self, response: requests.Response, file: BinaryIO) -> None:
        total, pace = self.progress.total, Pace(self.stall_timeout, self.progress.received)
        self._require_bound(total or 0)
        require_space(self.url, self.part, (total or 0) - self.progress.received)
        name = self.url.partition("?")[0].rpartition("/")[2]
        with show_bar(name, total, initial=self.progress.received, is_shown=self.shown) as bar:
            for piece in read_pieces(response):
                wanted = piece if total is None else piece[: total - self.progress.received]
                if not wanted:
                    break
                self._write(wanted, file)
                bar.update(len(wanted))
                pace.require(self.progress.received)

    def _write(self, piece: bytes, file: BinaryIO) -> None:
        before = self.progress.received
        self._require_bound(before + len(piece))
        require_space(self.url, self.part, len(piece))
        file.write(piece)
        file.flush()  # what has come stays if this process is killed
        self.progress = replace(self.progress, received=before + len(piece))
        if self.check_start is not None and before < _START_BYTES <= self.progress.received:
            self._look_at_start(self.check_start)
        if self.on_bytes is not None:
            self.on_bytes(self.progress.received)

    def _look_at_start(self, check: Callable[[bytes], object]) -> None:
        with self.part.open("rb") as file:
            start = file.read(_START_BYTES)
        # If it raises, nothing of the file will ever be of use.
        progress, self.progress = self.progress, DownloadProgress()
        check(start)
        self.progress = progress

    def _require_bound(self, size: int) -> None:
        stated = MAX_UNSTATED_BYTES if self.progress.total is None else self.progress.total
        bound = stated if self.max_bytes is None else self.max_bytes
        if size > bound:
            self.progress = DownloadProgress()  # nothing of it will ever be of use
            raise DownloadError(
                self.url, f"more than the {bound} bytes that it should have", hint="It is not the file meant."
            )

    def _read_progress(self) -> DownloadProgress:
        try:
            noted = DownloadProgress(**json.loads(self.part.with_suffix(".json").read_bytes()))
            received = self.part.stat().st_size
        except (OSError, ValueError, TypeError, RecursionError):
            return DownloadProgress()
        kinds = type(noted.total), type(noted.validator)
        return replace(noted, received=received) if kinds in _NOTED_KINDS else DownloadProgress()

    def _note(self, progress: DownloadProgress) -> None:
        self.progress = progress
        with place_file(self.part.with_suffix(".json")) as file:
            file.write(json.dumps(asdict(progress)).encode())
