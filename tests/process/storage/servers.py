"""Real servers that keep files: nginx with its DAV module, rclone's WebDAV, SeaweedFS, and docker's registry."""

from __future__ import annotations

import contextlib
import json
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

__all__ = ["SECRET_KEY", "SERVERS", "find_port", "find_url", "serve", "use_bucket"]

_NGINX = """
{user} daemon off; worker_processes 1; error_log stderr; pid {folder}/pid;
events {{}}
http {{
  access_log off; limit_rate {rate};
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; client_max_body_size 0;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      root {folder}/data; dav_methods PUT DELETE MKCOL; create_full_put_path on; autoindex on; autoindex_format json;
    }}
  }}
}}
"""

_REGISTRY = """
version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}", secret: the-same-after-a-restart}}
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
    # Bytes a second for each connection, in nginx's own words: a benchmark's matter.
    limit = folder / "limit-rate"
    rate = limit.read_text() if limit.exists() else "0"
    config.write_text(_NGINX.format(folder=folder, port=port, user=user, rate=rate), encoding="utf-8")
    return [_find("nginx"), "-c", str(config), "-p", str(folder)]


def _rclone(folder: Path, port: int) -> list[str]:
    (folder / "data").mkdir(exist_ok=True)
    return [_find("rclone"), "serve", "webdav", "--addr", f"127.0.0.1:{port}", "--config", "", str(folder / "data")]


def _seaweed(folder: Path, port: int, *more: str) -> list[str]:
    (folder / "data").mkdir(exist_ok=True)
    # Each of its servers takes a second port, 10,000 above, for gRPC. A server that comes again finds the old ports.
    noted = folder / "ports"
    if not noted.exists():
        noted.write_text(" ".join(str(find_port()) for _ in range(5)))
    master, volume, filer_grpc, master_grpc, volume_grpc = noted.read_text().split()
    return [
        _find("weed"), "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder / 'data'}", "-filer",
        f"-filer.port={port}", f"-master.port={master}", f"-volume.port={volume}", f"-filer.port.grpc={filer_grpc}",
        f"-master.port.grpc={master_grpc}", f"-volume.port.grpc={volume_grpc}", "-volume.max=100",
        "-master.volumeSizeLimitMB=64", "-master.telemetry=false", *more,
    ]  # fmt: skip


def _seaweed_s3(folder: Path, port: int) -> list[str]:
    identity = {
        "name": "llcuda", "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List"],
    }  # fmt: skip
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}), encoding="utf-8")
    noted = folder / "s3-ports"
    if not noted.exists():
        noted.write_text(" ".join(str(find_port()) for _ in range(2)))
    filer, grpc = noted.read_text().split()
    # Its catalogues would take ports that are always the same.
    catalogues = ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    return _seaweed(
        folder, int(filer), "-s3", f"-s3.port={port}", f"-s3.port.grpc={grpc}", f"-s3.config={config}", *catalogues
    )


def _registry(folder: Path, port: int) -> list[str]:
    config = folder / "registry.yml"
    passwords = folder / "htpasswd"
    login = f"auth: {{htpasswd: {{realm: models, path: {passwords}}}}}" if passwords.exists() else ""
    config.write_text(_REGISTRY.format(folder=folder, port=port) + login, encoding="utf-8")
    return [_find("docker-registry"), "serve", str(config)]


ACCESS_KEY, SECRET_KEY = "a-key", "a-secret-that-nobody-may-see"
SERVERS: dict[str, Callable[[Path, int], list[str]]] = {
    "nginx": _nginx, "rclone": _rclone, "seaweed": _seaweed, "s3": _seaweed_s3, "registry": _registry,
}  # fmt: skip
URLS = {"s3": "s3://bucket/models", "registry": "oci://127.0.0.1:{port}/some/models"}


@contextlib.contextmanager
def serve(name: str, folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server over the folder, until it is there; it is killed at the end."""
    command = SERVERS[name](folder, port)
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, start_new_session=True, env={**os.environ, "HOME": str(folder)}
        )
    try:
        wait_until(lambda: process.poll() is not None or _answers(name, folder, port))
        assert process.poll() is None, (folder / "log").read_text()
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


def find_url(name: str, port: int) -> str:
    """Return the address of a remote at a server."""
    return URLS.get(name, "http://127.0.0.1:{port}/models").format(port=port)


def use_bucket(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """Let this process and its children find the server of S3, and what it wants to see."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_REGION", "us-east-1")


def _answers(name: str, folder: Path, port: int) -> bool:
    try:
        if name == "registry":
            return httpx.get(f"http://127.0.0.1:{port}/v2/", trust_env=False, timeout=10).status_code in {200, 401}
        if name == "s3":
            # Its own interface answers, whatever it thinks of the question, and the filer makes the bucket.
            filer = (folder / "s3-ports").read_text().split()[0]
            made = httpx.put(
                f"http://127.0.0.1:{filer}/buckets/bucket/probe", content=b"x", trust_env=False, timeout=10
            )
            return (
                made.is_success and httpx.get(f"http://127.0.0.1:{port}/", trust_env=False, timeout=10).is_client_error
            )
        # SeaweedFS's filer answers before it can keep anything.
        address = f"http://127.0.0.1:{port}/probe"
        return httpx.put(address, content=b"x", trust_env=False, timeout=10).is_success
    except httpx.TransportError:
        return False
