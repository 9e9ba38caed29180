"""Real servers that keep files: nginx with its DAV module, rclone's WebDAV, SeaweedFS's filer."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["SERVERS", "serve"]

_NGINX = """
{user} daemon off; worker_processes 1; error_log stderr; pid {folder}/pid;
events {{}}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; client_max_body_size 0;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      root {folder}/data; dav_methods PUT DELETE MKCOL; create_full_put_path on; autoindex on; autoindex_format json;
    }}
  }}
}}
"""


def find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _find(program: str) -> str:
    found = shutil.which(program) or shutil.which(program, path=str(Path(sys.executable).parent))
    found = found or shutil.which(program, path="/usr/sbin")
    if found is None:
        pytest.skip(f"needs {program}")
    return found


def _nginx(folder: Path, port: int) -> list[str]:
    (folder / "data").mkdir(exist_ok=True)
    config = folder / "nginx.conf"
    user = "user root;" if os.getuid() == 0 else ""
    config.write_text(_NGINX.format(folder=folder, port=port, user=user), encoding="utf-8")
    return [_find("nginx"), "-c", str(config), "-p", str(folder)]


def _rclone(folder: Path, port: int) -> list[str]:
    (folder / "data").mkdir(exist_ok=True)
    return [_find("rclone"), "serve", "webdav", "--addr", f"127.0.0.1:{port}", "--config", "", str(folder / "data")]


def _seaweed(folder: Path, port: int) -> list[str]:
    (folder / "data").mkdir(exist_ok=True)
    # Each of its servers takes a second port, 10,000 above, for gRPC.
    master, volume = (find_port() for _ in range(2))
    return [
        _find("weed"), "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder / 'data'}", "-filer",
        f"-filer.port={port}", f"-master.port={master}", f"-volume.port={volume}", f"-filer.port.grpc={find_port()}",
        f"-master.port.grpc={find_port()}", f"-volume.port.grpc={find_port()}", "-volume.max=10",
        "-master.volumeSizeLimitMB=64",
    ]  # fmt: skip


SERVERS: dict[str, Callable[[Path, int], list[str]]] = {"nginx": _nginx, "rclone": _rclone, "seaweed": _seaweed}


@contextlib.contextmanager
def serve(name: str, folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server over the folder, until it is there; it is killed at the end."""
    command = SERVERS[name](folder, port)
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, start_new_session=True, env={**os.environ, "HOME": str(folder)}
        )
    try:
        wait_until(lambda: process.poll() is not None or _answers(port))
        assert process.poll() is None, (folder / "log").read_text()
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


def _answers(port: int) -> bool:
    try:
        # SeaweedFS's filer answers before it can keep anything.
        address = f"http://127.0.0.1:{port}/probe"
        return httpx.put(address, content=b"x", trust_env=False, timeout=10).is_success
    except httpx.TransportError:
        return False
