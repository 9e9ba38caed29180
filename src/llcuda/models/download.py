"""Download a file from an address into the store: resumed, checked, and never half."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import shutil
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, BinaryIO

from llcuda.errors import ChecksumMismatchError, DownloadError, ModelFormatError
from llcuda.gguf import read_gguf
from llcuda.models.partial import Answer, Progress, Step, decide, request_headers
from llcuda.store.placing import place_file, sync, writing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import requests

    from llcuda.models.names import UrlName
    from llcuda.store import ModelStore

__all__ = ["fetch_url"]

CONNECT_TIMEOUT = 10.0
STALL_TIMEOUT = 30.0
MAX_FUTILE_ATTEMPTS = 5
"""Attempts in a row that bring the file no further than it was."""
_CHUNK_BYTES = 1 << 16
"""What a broken connection can lose."""
_FIRST_PAUSE = 0.5

_log = logging.getLogger("llcuda")


def fetch_url(name: UrlName, store: ModelStore, *, progress: bool = True, stall_timeout: float = STALL_TIMEOUT) -> str:
    """Download the file, check that it is a whole GGUF file, put it into the store, and return its digest.

    What was downloaded before, by this process or another, is kept and resumed if the server says that the file is the
    same. Two processes do not download the same file twice. Raises DownloadError, ModelFormatError where it is no GGUF
    file, ChecksumMismatchError where its digest is not the one in the name, and ModelError on a full disk.
    """
    with _lock(store, name.url) as part:
        known = store.get_link(name.url)
        if known and name.digest in {None, known}:
            return known
        _Download(name.url, part, stall_timeout=stall_timeout, shown=progress).run()
        return _check_and_adopt(name, part, store)


@contextlib.contextmanager
def _lock(store: ModelStore, url: str) -> Iterator[Path]:
    """Yield the path of the partial file, which no other process writes meanwhile."""
    part = store.root / "downloads" / hashlib.sha256(url.encode()).hexdigest()
    with writing(part):
        part.parent.mkdir(parents=True, exist_ok=True)
        file = part.with_suffix(".lock").open("wb")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield part


def _check_and_adopt(name: UrlName, part: Path, store: ModelStore) -> str:
    try:
        read_gguf(part)
        digest = store.adopt(part, expected=name.digest)
    except ModelFormatError as error:
        _forget(part)
        raise ModelFormatError(name.url, error.reason, offset=error.offset, hint=error.hint) from None
    except ChecksumMismatchError as error:
        _forget(part)
        raise ChecksumMismatchError(name.url, expected=error.expected, actual=error.actual) from None
    store.link(name.url, digest)
    _forget(part)
    return digest


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    part.with_suffix(".json").unlink(missing_ok=True)


class _Download:
    """One file's way from the server to ``part``."""

    def __init__(self, url: str, part: Path, *, stall_timeout: float, shown: bool) -> None:
        self.url = url
        self.part = part
        self.stall_timeout = stall_timeout
        self.shown = shown
        self.progress = self._read_progress()
        self.complete = False

    def run(self) -> None:
        """Ask until the file is whole, or until asking brings nothing any more."""
        import requests  # noqa: PLC0415 - loaded only when needed

        futile, furthest = 0, self.progress.received
        with requests.Session() as session, writing(self.part), self.part.open("ab") as file:
            while True:
                reason = self._attempt(session, file)
                if self.complete:
                    sync(file)
                    return
                # A server that always starts again brings bytes without end, and none that are new.
                futile = 0 if self.progress.received > furthest else futile + 1
                furthest = max(furthest, self.progress.received)
                if futile >= MAX_FUTILE_ATTEMPTS:
                    raise DownloadError(self.url, reason)
                _log.warning("%s: %s; trying again", self.url, reason)
                time.sleep(_FIRST_PAUSE * 2 ** max(futile - 1, 0) if futile else 0)

    def _attempt(self, session: requests.Session, file: BinaryIO) -> str:
        """Make one request and return why it did not bring the whole file."""
        import requests  # noqa: PLC0415 - loaded only when needed

        try:
            with session.get(
                self.url,
                headers=request_headers(self.progress),
                stream=True,
                timeout=(CONNECT_TIMEOUT, self.stall_timeout),
            ) as response:
                self._refuse_downgrade(response)
                return self._follow(response, file)
        except (requests.exceptions.InvalidSchema, requests.exceptions.TooManyRedirects, requests.exceptions.SSLError,
                requests.exceptions.InvalidURL, requests.exceptions.MissingSchema) as error:  # fmt: skip
            raise DownloadError(self.url, str(error), hint="Check the address.") from error
        except requests.exceptions.RequestException as error:
            return str(error)

    def _refuse_downgrade(self, response: requests.Response) -> None:
        if self.url.lower().startswith("https:") and not response.url.lower().startswith("https:"):
            raise DownloadError(self.url, f"it is redirected to {response.url}, which is not encrypted")

    def _follow(self, response: requests.Response, file: BinaryIO) -> str:
        answer = Answer(response.status_code, {name.lower(): value for name, value in response.headers.items()})
        step = decide(answer, self.progress)
        if step.action == "fail":
            raise DownloadError(self.url, step.reason, status=answer.status, hint=_hint(answer.status))
        if step.action == "retry":
            return step.reason
        if step.action == "done":
            self.complete = True
            return ""
        return self._receive(response, file, step)

    def _receive(self, response: requests.Response, file: BinaryIO, step: Step) -> str:
        file.truncate(step.progress.received)
        self._note(step.progress)
        if step.action == "again":
            return "the file on the server has changed"
        self._require_space(step.progress)
        with self._bar() as bar:
            for piece in response.iter_content(_CHUNK_BYTES):
                file.write(piece)
                self.progress = replace(self.progress, received=self.progress.received + len(piece))
                bar.update(len(piece))
        return self._conclude(file)

    def _conclude(self, file: BinaryIO) -> str:
        """Decide, when the server has ended the answer, whether the file is whole."""
        received, total = self.progress.received, self.progress.total
        if total is not None and received > total:
            file.truncate(0)
            self._note(Progress())
            return f"the server sent {received} bytes of {total}"
        # Without a length, only the GGUF header can tell whether everything came; it is read at the end.
        self.complete = total is None or received == total
        return "" if self.complete else f"the connection ended after {received} of {total} bytes"

    def _require_space(self, progress: Progress) -> None:
        missing = (progress.total or 0) - progress.received
        free = shutil.disk_usage(self.part.parent).free
        if missing > free:
            raise DownloadError(
                self.url,
                f"{missing} bytes are missing and {free} are free in {self.part.parent}",
                hint="Free some space, or set LLCUDA_HOME to a larger disk.",
            )

    def _bar(self) -> Any:
        from huggingface_hub.utils.tqdm import tqdm  # noqa: PLC0415 - loaded only when needed

        return tqdm(  # type: ignore[no-untyped-call]
            desc=self.url.partition("?")[0].rpartition("/")[2][-40:],
            total=self.progress.total,
            initial=self.progress.received,
            unit="B",
            unit_scale=True,
            disable=None if self.shown else True,
        )

    def _read_progress(self) -> Progress:
        import json  # noqa: PLC0415 - loaded only when needed

        try:
            noted = Progress(**json.loads(self.part.with_suffix(".json").read_bytes()))
            return replace(noted, received=self.part.stat().st_size)
        except (OSError, ValueError, TypeError):
            return Progress()

    def _note(self, progress: Progress) -> None:
        import json  # noqa: PLC0415 - loaded only when needed

        self.progress = progress
        with place_file(self.part.with_suffix(".json")) as file:
            file.write(json.dumps(asdict(progress)).encode())


def _hint(status: int) -> str:
    if status in {401, 403}:
        return "The address needs a login: download the file with your browser and give its path."
    if status in {404, 410}:
        return "Check the address: there is no such file on the server."
    return ""
