"""Download a file from an address: resumed, by whichever process, and never taken for whole when it is not."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import shutil
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, BinaryIO

from llcuda.errors import DownloadError
from llcuda.store.partial import Answer, Progress, Step, decide, request_headers
from llcuda.store.placing import place_file, sync, writing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import requests

__all__ = ["STALL_TIMEOUT", "download", "forget_partial", "lock_partial"]

CONNECT_TIMEOUT = 10.0
STALL_TIMEOUT = 30.0
MAX_FUTILE_ATTEMPTS = 5
"""Attempts in a row that bring the file no further than it was."""
_CHUNK_BYTES = 1 << 16
"""What a broken connection can lose."""
_FIRST_PAUSE = 0.5

_log = logging.getLogger("llcuda")


@contextlib.contextmanager
def lock_partial(folder: Path, url: str) -> Iterator[Path]:
    """Yield the path in ``folder`` of the partial file of ``url``, which no other process writes meanwhile."""
    part = folder / hashlib.sha256(url.encode()).hexdigest()
    with writing(part):
        part.parent.mkdir(parents=True, exist_ok=True)
        file = part.with_suffix(".lock").open("wb")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield part


def download(
    url: str,
    part: Path,
    *,
    headers: Mapping[str, str] | None = None,
    max_bytes: int | None = None,
    progress: bool = True,
    on_bytes: Callable[[int], object] | None = None,
    stall_timeout: float = STALL_TIMEOUT,
) -> None:
    """Download ``url`` into ``part``, a path of :func:`lock_partial`; what is there already is resumed.

    It is resumed if the server says that the file is the same. ``headers`` go with each request, ``progress`` shows a
    bar on a terminal, ``on_bytes`` is told again and again how many bytes are there. Raises DownloadError, also where
    more than ``max_bytes`` come, and ModelError on a full disk.
    """
    task = _Download(url, part, headers=headers or {}, stall_timeout=stall_timeout, shown=progress)
    task.max_bytes = max_bytes
    task.on_bytes = on_bytes
    task.run()


def forget_partial(part: Path) -> None:
    """Remove a partial file, or a whole one that nobody needs, and what was noted of it."""
    part.unlink(missing_ok=True)
    part.with_suffix(".json").unlink(missing_ok=True)


class _Download:
    """One file's way from the server to ``part``."""

    def __init__(
        self, url: str, part: Path, *, headers: Mapping[str, str], stall_timeout: float, shown: bool
    ) -> None:
        self.url = url
        self.headers = headers
        self.part = part
        self.stall_timeout = stall_timeout
        self.shown = shown
        self.max_bytes: int | None = None
        self.on_bytes: Callable[[int], object] | None = None
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
                headers={**self.headers, **request_headers(self.progress)},
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
        self._require_bound(step.progress.total or 0)
        self._require_space(step.progress)
        with self._bar() as bar:
            for piece in response.iter_content(_CHUNK_BYTES):
                file.write(piece)
                self.progress = replace(self.progress, received=self.progress.received + len(piece))
                self._require_bound(self.progress.received)
                bar.update(len(piece))
                if self.on_bytes is not None:
                    self.on_bytes(self.progress.received)
        return self._conclude(file)

    def _conclude(self, file: BinaryIO) -> str:
        """Decide, when the server has ended the answer, whether the file is whole."""
        received, total = self.progress.received, self.progress.total
        if total is not None and received > total:
            file.truncate(0)
            self._note(Progress())
            return f"the server sent {received} bytes of {total}"
        # Without a length, only what is in the file can tell whether everything came; who asked for it looks.
        self.complete = total is None or received == total
        return "" if self.complete else f"the connection ended after {received} of {total} bytes"

    def _require_bound(self, size: int) -> None:
        if self.max_bytes is not None and size > self.max_bytes:
            raise DownloadError(
                self.url, f"more than the {self.max_bytes} bytes that it should have", hint="It is not the file meant."
            )

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
