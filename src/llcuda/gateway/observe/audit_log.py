"""The audit log: one line of JSON for each request, and never what was asked, what was answered, or a key."""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

from llcuda.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["AuditLog", "AuditRecord", "format_record"]

_log = logging.getLogger("llcuda")

_MAX_WAITING = 4096
"""Records that may wait for the disk: about 2 MB."""
_MAX_TEXT = 256
"""Characters of what a client has chosen; whole requests do not belong into the log."""
_BATCH = 256
_STOP, _REOPEN = "stop", "reopen"


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One request. What is None is not known: a request that was refused has no worker."""

    time: float
    """Seconds since the epoch when its head had come."""
    id: str
    key: str
    """The name of the caller's key."""
    method: str
    path: str
    """What stands before the query, which may hold anything."""
    status: int
    """0 if the client had gone before there was one."""
    model: str | None = None
    worker: str | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    queue_ms: float | None = None
    duration_ms: float = 0.0


def format_record(record: AuditRecord) -> bytes:
    """Return the line; what came from outside is cut, and escaped into ASCII."""
    facts: dict[str, Any] = {each.name: getattr(record, each.name) for each in fields(record)}
    facts["time"] = datetime.fromtimestamp(record.time, timezone.utc).isoformat(timespec="milliseconds")
    facts["path"] = record.path.partition("?")[0]
    for name, value in facts.items():
        if isinstance(value, str):
            facts[name] = value[:_MAX_TEXT]
        elif isinstance(value, float):
            facts[name] = round(value, 3)
    return json.dumps(facts, separators=(",", ":")).encode() + b"\n"


class AuditLog:
    """A file that lines are added to by a thread of its own, so that a slow disk holds up no answer.

    What cannot be written, because the disk is full or too slow, is counted in :attr:`lost` and warned of once, until
    it can be written again.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, for its owner alone if it is new; raises UsageError if it cannot be opened."""
        self._path = path
        try:
            self._descriptor = _open(path)
        except OSError as error:
            raise UsageError(
                f"the audit log {path} cannot be opened: {error.strerror}", hint="Name a file that can be written."
            ) from None
        self._queue: SimpleQueue[AuditRecord | str] = SimpleQueue()
        self._dropped = self._failed = 0
        self._is_failing = self._is_torn = False
        self._thread = Thread(target=self._run, name="llcuda-audit", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """The number of records that were not written."""
        return self._dropped + self._failed

    def write(self, record: AuditRecord) -> None:
        """Have the record written; return at once."""
        if self._queue.qsize() < _MAX_WAITING:
            self._queue.put(record)
        else:
            self._dropped += 1

    def reopen(self) -> None:
        """Go on in the file that has the name now, for log rotation; stay with the old one if that fails."""
        self._queue.put(_REOPEN)

    def close(self, timeout: float = 2.0) -> None:
        """Write what waits, and close the file; give up after ``timeout`` seconds."""
        self._queue.put(_STOP)
        self._thread.join(timeout)

    def _run(self) -> None:
        order = ""
        while order != _STOP:
            records, order = self._take()
            if records:
                self._write(b"".join(map(format_record, records)))
            if order == _REOPEN:
                self._reopen()
        os.close(self._descriptor)

    def _take(self) -> tuple[list[AuditRecord], str]:
        """Wait for records, and return them up to the next order."""
        records: list[AuditRecord] = []
        item = self._queue.get()
        with suppress(Empty):
            while isinstance(item, AuditRecord):
                records.append(item)
                if len(records) == _BATCH:
                    break
                item = self._queue.get_nowait()
        return records, item if isinstance(item, str) else ""

    def _write(self, lines: bytes) -> None:
        try:
            self._write_all(lines)
        except OSError as error:
            self._warn(f"{error.strerror}; requests are answered all the same")
            return
        if self._is_failing:
            self._is_failing = False
            _log.warning("the audit log %s is written again; %d records are lost", self._path, self.lost)

    def _write_all(self, lines: bytes) -> None:
        """Write the lines, or count those that are not written whole."""
        try:
            if self._is_torn:
                # After a line that was cut off, the next one begins anew.
                os.write(self._descriptor, b"\n")
                self._is_torn = False
            while lines:
                written = os.write(self._descriptor, lines)
                self._is_torn = lines[written - 1 : written] != b"\n"
                lines = lines[written:]
        except OSError:
            self._failed += lines.count(b"\n")
            raise

    def _reopen(self) -> None:
        try:
            descriptor = _open(self._path)
        except OSError as error:
            self._warn(f"{error.strerror}; the old file is kept")
            return
        os.close(self._descriptor)
        self._descriptor, self._is_torn = descriptor, False

    def _warn(self, reason: str) -> None:
        if not self._is_failing:
            _log.warning("the audit log %s cannot be written: %s", self._path, reason)
        self._is_failing = True


def _open(path: Path) -> int:
    # Without O_NONBLOCK, a pipe that nobody reads would be waited for.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    os.set_blocking(descriptor, True)
    return descriptor
