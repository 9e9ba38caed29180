"""Ask servers for the benchmark of the gateway: load by load.c, single questions, and what a process has used."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "Address",
    "Load",
    "ask",
    "build_body",
    "build_request",
    "compile_load",
    "connect",
    "read_children",
    "read_cpu",
    "read_rss",
]

Address = str
"""``unix:PATH``, or ``IP:PORT``."""

_LOAD = Path(__file__).with_name("load.c")


def compile_load(folder: Path) -> Path:
    """Compile the load generator, and return the executable."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise SystemExit("a C compiler is needed: cc")
    target = folder / "load"
    subprocess.run([compiler, "-std=c11", "-O2", str(_LOAD), "-o", str(target)], check=True, timeout=60)
    return target


def build_body(*, stream: bool = False, **wishes: object) -> str:
    """Return a request for a chat that steers tests/standins/stub_engine.py."""
    message = {"role": "user", "content": json.dumps(wishes)}
    return json.dumps({"model": "demo", "messages": [message], "stream": stream})


class Load:
    """Load on one address, or on several; the figures are there when it has ended."""

    def __init__(self, program: Path, *addresses: Address, body: str, key: str = "", **options: float) -> None:
        """Start it. ``options`` are load.c's, by their letters."""
        given = [part for name, value in options.items() for part in (f"-{name}", f"{value:g}")]
        header = ["-H", f"Authorization: Bearer {key}"] if key else []
        first, *others = addresses
        command = [str(program), *given, *header, first, body, *others]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def read(self, *, timeout: float = 120) -> dict[str, Any]:
        """Wait for it to end, and return its figures."""
        try:
            text, _ = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.stop()
            raise
        if self.process.returncode:
            raise SystemExit(f"the load generator ended with status {self.process.returncode}")
        figures: dict[str, Any] = json.loads(text)
        return figures

    def stop(self) -> None:
        """End it without figures."""
        self.process.kill()
        self.process.communicate()


def connect(address: Address, *, timeout: float = 10) -> socket.socket:
    """Return a connected socket."""
    if address.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
        connection.connect(address[5:])
        return connection
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def ask(address: Address, path: str, *, body: str = "", key: str = "", timeout: float = 5) -> tuple[int, bytes]:
    """Return status and body of what is answered to a GET, or to a POST where there is a body."""
    with connect(address, timeout=timeout) as connection:
        connection.sendall(build_request(path, body=body, key=key, more="Connection: close\r\n"))
        response = http.client.HTTPResponse(connection)
        response.begin()
        return response.status, response.read()


def build_request(path: str, *, body: str, key: str, more: str = "") -> bytes:
    """Return a request's bytes."""
    lines = (
        f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key or 'none'}\r\n"
    )
    form = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    return f"{lines}{form}{more}\r\n{body}".encode()


def read_children(pid: int) -> list[int]:
    """Return the processes that a process has started, and theirs."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text(encoding="ascii").split()):
            found += [child, *read_children(child)]
    return found


def read_cpu(pids: Iterable[int]) -> float:
    """Return the seconds of CPU, user and system, that processes have used."""
    # /proc/PID/stat has the same in hundredths of a second, which is a thousand tokens of nginx's.
    tasks = [task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9


def read_rss(pids: Iterable[int]) -> float:
    """Return the MiB of memory that processes have resident."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
