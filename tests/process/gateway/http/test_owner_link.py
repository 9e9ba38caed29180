"""The link to the page that ``llcuda serve`` shows at its terminal if it has no keys."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx

from tests.processes import wait_until

if TYPE_CHECKING:
    from pathlib import Path

SERVE = [sys.executable, "-m", "llcuda", "serve", "--port", "0", "-m", "demo", "--access-log"]
LINK = re.compile(rb"(http://127\.0\.0\.1:\d+)/#key=(\S+)\r\n")


def read_until(descriptor: int, pattern: re.Pattern[bytes]) -> tuple[re.Match[bytes], bytes]:
    said = b""
    while not (found := pattern.search(said)):
        said += os.read(descriptor, 4096)
    return found, said[found.end() :]


def test_whoever_reads_the_terminal_is_the_administrator_once(tmp_path: Path) -> None:
    audit = tmp_path / "audit.jsonl"
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(SERVE[0], [*SERVE, "--audit-log", str(audit)])  # noqa: S606
    try:
        link, _ = read_until(terminal, LINK)
        url, key = link[1].decode(), link[2].decode()
        with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
            for headers in ({}, {"Authorization": f"Bearer {key}"}):
                assert client.get("/api/status", headers=headers).json()["caller"]["is_admin"] is False
            given = client.post("/api/owner", headers={"Authorization": f"Bearer {key}"}).json()["key"]
            mine = {"Authorization": f"Bearer {given}"}
            assert client.get("/api/status", headers=mine).json()["caller"] == {"name": "owner", "is_admin": True}
            # New workers, and a new configuration: the key holds.
            assert client.post("/api/admin/reload", headers=mine).status_code == 202
            assert client.post("/api/admin/offload", headers=mine, json={}).json()["error"]["param"] == "model"
            again = client.post("/api/owner", headers={"Authorization": f"Bearer {key}"})
            assert (again.status_code, again.json()["error"]["code"]) == (403, "used_link")
        other, _ = read_until(terminal, LINK)
        assert other[2] != link[2]
        os.kill(pid, signal.SIGTERM)
        rest = b"".join(iter(lambda: read_rest(terminal), b""))
        assert os.waitpid(pid, 0)[1] == 0
        for secret in (link[2], given.encode()):
            assert secret not in rest + audit.read_bytes()
    finally:
        os.close(terminal)


def read_rest(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other end is closed
        return b""


def test_a_file_that_others_may_read_has_no_link(tmp_path: Path) -> None:
    log = tmp_path / "serve.log"
    with log.open("wb") as file, subprocess.Popen(SERVE, stderr=file, stdin=subprocess.DEVNULL) as process:
        wait_until(lambda: b"  try: " in log.read_bytes(), timeout=120, what="the gateway is ready")
        process.terminate()
    assert b"#key=" not in log.read_bytes()
