"""Servers for the benchmarks of the gateway: a process and its end, and the wait for its first answer."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING

from gateway_load import ask

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["UnavailableError", "await_answer", "find_port", "run_process"]

_PATIENCE = 20.0
_HTTP_OK = 200


class UnavailableError(Exception):
    """Something cannot be installed or started here."""


@contextlib.contextmanager
def run_process(
    command: list[str], *, folder: Path, name: str, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in a group of its own, and end the group; what it prints is in ``NAME.log``."""
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def await_answer(
    process: subprocess.Popen[bytes], address: str, *, path: str = "/health", patience: float = _PATIENCE
) -> None:
    """Wait until it answers."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise UnavailableError(f"it ended with status {process.returncode}")
        with contextlib.suppress(OSError, ValueError):
            if ask(address, path)[0] == _HTTP_OK:
                return
        time.sleep(0.02)
    raise UnavailableError(f"it did not answer within {patience:g} s")


def find_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
