"""The audit log: what a line says, and that nothing which befalls the file befalls the gateway."""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING, Any

import pytest

from llcuda.errors import UsageError
from llcuda.gateway.observe import audit_log
from llcuda.gateway.observe.audit_log import AuditLog, AuditRecord, format_record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def make_record(**facts: Any) -> AuditRecord:
    given = {"time": 1_800_000_000.1234, "id": "r1", "key": "ann", "method": "POST", "path": "/v1/completions"}
    return AuditRecord(**{**given, "status": 200, **facts})


@contextmanager
def opened(path: Path) -> Iterator[AuditLog]:
    log = AuditLog(path)
    try:
        yield log
    finally:
        log.close()


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def ids(path: Path) -> list[str]:
    return [record["id"] for record in read(path)]


def test_a_line_says_who_asked_what_and_what_came_of_it() -> None:
    line = format_record(make_record(model="demo", worker="demo-1", bytes_in=10, bytes_out=20, prompt_tokens=3))
    assert json.loads(line) == {
        "time": "2027-01-15T08:00:00.123+00:00",
        "id": "r1",
        "key": "ann",
        "method": "POST",
        "path": "/v1/completions",
        "status": 200,
        "model": "demo",
        "worker": "demo-1",
        "bytes_in": 10,
        "bytes_out": 20,
        "prompt_tokens": 3,
        "completion_tokens": None,
        "queue_ms": None,
        "duration_ms": 0.0,
    }


@pytest.mark.parametrize("text", ["a\nb", "a\r\n{}", "a\x00\x1b[31m", "\u2028", "\ud800", "\xff", '"', "x" * 10_000])
def test_whatever_a_client_sends_is_one_short_line_of_ascii(text: str) -> None:
    line = format_record(make_record(path=text, model=text, id=text, method=text))
    assert line.count(b"\n") == 1
    assert line.isascii()
    assert len(line) < 8000
    assert json.loads(line)["path"] == text[:256]


def test_the_query_is_left_out() -> None:
    assert b"sk-" not in format_record(make_record(path="/v1/models?api_key=sk-secret"))


def test_the_file_is_its_owners_alone_and_is_added_to(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for number in range(2):
        with opened(path) as log:
            log.write(make_record(id=f"r{number}"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ids(path) == ["r0", "r1"]


def test_every_record_is_written_in_its_order(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with opened(path) as log:
        for number in range(1000):
            log.write(make_record(id=str(number)))
    assert ids(path) == [str(number) for number in range(1000)]
    assert log.lost == 0


def test_after_a_rotation_it_goes_on_in_the_new_file(tmp_path: Path) -> None:
    path, old = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1"
    with opened(path) as log:
        log.write(make_record(id="before"))
        path.rename(old)
        log.write(make_record(id="between"))
        log.reopen()
        log.write(make_record(id="after"))
    assert (ids(old), ids(path)) == (["before", "between"], ["after"])


def test_where_the_new_file_cannot_be_opened_the_old_one_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    path, moved = folder / "audit.jsonl", tmp_path / "moved"
    with opened(path) as log:
        folder.rename(moved)
        log.reopen()
        log.write(make_record(id="still"))
    assert ids(moved / path.name) == ["still"]
    assert "the old file is kept" in caplog.text


def test_a_file_that_cannot_be_opened_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be opened: No such file"):
        AuditLog(tmp_path / "missing" / "audit.jsonl")


def test_a_pipe_that_nobody_reads_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="cannot be opened"):
        AuditLog(tmp_path / "pipe")


class Disk:
    """Writes of the audit log, which fail or are cut short as told."""

    def __init__(self, *, room: int) -> None:
        self.room = room
        self.write = os.write

    def __call__(self, descriptor: int, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self.write(descriptor, data[: self.room])
        self.room -= written
        return written


def flush(log: AuditLog) -> None:
    """Wait until what was given to the log has been taken from its queue and dealt with."""
    done = Event()
    original = log._reopen

    def reopen() -> None:
        log._reopen = original  # type: ignore[method-assign]
        done.set()

    log._reopen = reopen  # type: ignore[method-assign]
    log.reopen()
    assert done.wait(120)


def test_a_full_disk_is_warned_of_once_and_what_is_lost_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="llcuda")
    path, line = tmp_path / "audit.jsonl", format_record(make_record(id="1"))
    disk = Disk(room=len(line) + 10)
    monkeypatch.setattr(os, "write", disk)
    with opened(path) as log:
        for number in range(1, 5):
            log.write(make_record(id=str(number)))
            flush(log)
        assert log.lost == 3
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "No space left on device" in caplog.text
        disk.room = 1 << 20
        log.write(make_record(id="5"))
        flush(log)
        log.write(make_record(id="6"))
    lines = path.read_bytes().splitlines()
    assert lines[1] == line[:10]
    assert [json.loads(lines[number])["id"] for number in (0, 2, 3)] == ["1", "5", "6"]
    assert [record.getMessage().split(": ")[0].rpartition("/")[2] for record in caplog.records] == [
        "audit.jsonl cannot be written",
        "audit.jsonl is written again; 3 records are lost",
    ]


def test_a_short_write_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    path = tmp_path / "audit.jsonl"
    with opened(path) as log:
        for number in range(3):
            log.write(make_record(id=str(number)))
    assert ids(path) == ["0", "1", "2"]


def test_a_disk_that_hangs_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, write = Event(), os.write

    def hang(descriptor: int, data: bytes) -> int:
        assert go_on.wait(120)
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", hang)
    log = AuditLog(tmp_path / "audit.jsonl")
    for _ in range(6000):
        log.write(make_record())
    assert log.lost >= 6000 - audit_log._MAX_WAITING - audit_log._BATCH
    log.close(timeout=0.01)
    lost = log.lost
    go_on.set()
    log.close(timeout=120)
    assert len(read(tmp_path / "audit.jsonl")) == 6000 - lost
