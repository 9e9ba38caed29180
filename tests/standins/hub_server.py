"""A hub on loopback: enough of its protocol for huggingface_hub's own code, and for plain downloads, with faults.

Repositories are dictionaries of files. ``/{repo}/resolve/{revision}/{file}``, for a dataset
``/datasets/{repo}/resolve/{revision}/{file}``, answers HEAD and GET with ``ETag``, ``X-Repo-Commit``,
``X-Linked-ETag``, ``X-Linked-Size`` and ranges; ``/api/models/{repo}/revision/{revision}`` lists the files with their
digests. ``/plain/{file}`` is a server that knows nothing of a hub.
"""

from __future__ import annotations

import json
import re
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_RESOLVE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/([^?]+)")
_PLAIN = re.compile(r"(?:http://[^/]+)?/plain/(.*)")
"""A proxy is asked for the whole address."""
_API = re.compile(r"/api/models/([^/]+/[^/?]+)(?:/revision/([^/?]+))?(?:\?.*)?")


@dataclass
class Raw:
    """An answer that is sent as it is, and then ``piece`` again and again."""

    path: str
    """In the address of what is answered so."""
    head: bytes
    piece: bytes = b""
    limit: int = 64 << 20
    """Bytes after which even this server has enough."""
    pause: float = 0.0
    """Seconds between two pieces."""


@dataclass
class Faults:
    """What goes wrong. Each counter is used up by one when it does."""

    cut_after: int | None = None
    """Bytes of a body after which the connection is closed."""
    cuts: int = 0
    stall_after: int | None = None
    """Bytes after which nothing more comes until the server stops."""
    stalls: int = 0
    wrong_bytes: bool = False
    status: int | None = None
    """Answer everything with this status."""
    statuses: int = 1_000_000
    gated: bool = False
    ignore_range: bool = False
    ignore_if_range: bool = False
    no_length: bool = False
    no_validator: bool = False
    wrong_length: int = 0
    """Added to the Content-Length."""
    change_after: int | None = None
    """The number of requests for a body after which the file is another one."""
    wrong_range_start: bool = False
    redirect: str | None = None
    encoding: str | None = None
    range_status: int | None = None
    """Answer a request for a range with this status."""
    raw: Raw | None = None
    listing: object = None
    """What is said of a repository, in place of what is true."""
    file_headers: dict[str, str] = field(default_factory=dict)
    """Of files in repositories, in place of the true ones."""


@dataclass
class Hub:
    """The server's contents, faults, and what was asked of it."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    datasets: dict[str, dict[str, bytes]] = field(default_factory=dict)
    plain: dict[str, bytes] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    bodies: int = 0
    bytes_sent: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def body_requests(self) -> list[dict[str, str]]:
        return [headers for method, path, headers in self.requests if method == "GET" and not path.startswith("/api/")]

    def environment(self, home: object) -> dict[str, str]:
        """Return the variables that send huggingface_hub here, with its cache under ``home``."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": f"{home}/hf",
            "LLCUDA_HOME": f"{home}/llcuda",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
        }


@contextmanager
def serve() -> Iterator[Hub]:
    """Yield a running hub."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = False
        hub.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield hub
        finally:
            hub.stopping.set()
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    @override
    def setup(self) -> None:
        super().setup()
        # A connection that is kept alive must not keep the server from stopping.
        self.connection.settimeout(0.5)

    @override
    def handle(self) -> None:
        # Clients go away in the middle of an answer, which some tests are about.
        with suppress(ConnectionError):
            super().handle()

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, faults = self.hub, self.hub.faults
        hub.requests.append((self.command, self.path, {name.lower(): value for name, value in self.headers.items()}))
        if faults.raw and faults.raw.path in self.path:
            self._send_raw(faults.raw)
        elif faults.status and faults.statuses > 0:
            faults.statuses -= 1
            self._send_error(faults.status)
        elif faults.gated and "authorization" not in self.headers:
            self._send_error(401, "GatedRepo", "Access to model is restricted.")
        elif match := _API.fullmatch(self.path):
            self._send_listing(match[1])
        elif match := _RESOLVE.fullmatch(self.path.partition("?")[0]):
            files = (hub.datasets if match[1] else hub.repositories).get(match[2])
            self._send_repository_file(files, match[4])
        elif found := _PLAIN.fullmatch(self.path.partition("?")[0]):
            self._send_plain(found[1])
        else:
            self._send_error(404)

    def _send_raw(self, raw: Raw) -> None:
        self.close_connection = True
        self.wfile.write(raw.head)
        sent = 0
        while raw.piece and sent < raw.limit and not self.hub.stopping.wait(raw.pause):
            self._write(raw.piece)
            sent += len(raw.piece)

    def _send_error(self, status: int, code: str = "", message: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_listing(self, repository: str) -> None:
        if self.hub.faults.listing is not None:
            self._send_json(self.hub.faults.listing)
            return
        files = self.hub.repositories.get(repository)
        if files is None:
            self._send_error(404, "RepoNotFound", "Repository not found")
            return
        siblings = [
            {
                "rfilename": name,
                "size": len(data),
                "blobId": "0" * 40,
                "lfs": {"sha256": sha256(data).hexdigest(), "size": len(data), "pointerSize": 134},
            }
            for name, data in files.items()
        ]
        self._send_json({"_id": "1", "id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings})

    def _send_repository_file(self, files: dict[str, bytes] | None, name: str) -> None:
        if files is None:
            self._send_error(404, "RepoNotFound", "Repository not found")
        elif name not in files:
            self._send_error(404, "EntryNotFound", "Entry not found")
        else:
            data = files[name]
            digest = sha256(data).hexdigest()
            headers = {"X-Repo-Commit": COMMIT, "X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(data))}
            self._send_file(data, {"ETag": f'"{digest}"', **headers, **self.hub.faults.file_headers})

    def _send_plain(self, name: str) -> None:
        hub, faults = self.hub, self.hub.faults
        if faults.redirect and not name.startswith("moved"):
            self.send_response(302)
            self.send_header("Location", faults.redirect)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = hub.plain.get(name)
        if data is None:
            self._send_error(404)
            return
        if faults.change_after is not None and hub.bodies >= faults.change_after:
            data = hub.plain["changed"]
        validator = {} if faults.no_validator else {"ETag": f'"{sha256(data).hexdigest()[:16]}"'}
        self._send_file(data, validator)

    def _send_file(self, data: bytes, headers: dict[str, str]) -> None:
        faults = self.hub.faults
        asked = self._find_range(headers.get("ETag"))
        start, end = asked or (0, None)
        if asked and (start or end) and faults.range_status:
            self._send_error(faults.range_status)
            return
        if start >= len(data) > 0:
            self._send_error(416)
            return
        body = data[start:end]
        if faults.wrong_bytes:
            body = body[:16] + bytes(byte ^ 1 for byte in body[16:])
        self.send_response(206 if asked else 200)
        for name, value in headers.items():
            self.send_header(name, value)
        if asked:
            shown = start + 1 if faults.wrong_range_start else start
            self.send_header("Content-Range", f"bytes {shown}-{start + len(body) - 1}/{len(data)}")
        if faults.encoding:
            self.send_header("Content-Encoding", faults.encoding)
        if faults.no_length:
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(body) + faults.wrong_length))
        self.end_headers()
        if self.command == "GET":
            self._send_body(body)

    def _find_range(self, tag: str | None) -> tuple[int, int | None] | None:
        """Return from where to where the client wants the file, or None for all of it."""
        faults = self.hub.faults
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        if not match or faults.ignore_range or (condition and condition != tag and not faults.ignore_if_range):
            return None
        return int(match[1]), int(match[2]) + 1 if match[2] else None

    def _send_body(self, body: bytes) -> None:
        hub, faults = self.hub, self.hub.faults
        hub.bodies += 1
        if faults.cut_after is not None and faults.cuts > 0:
            faults.cuts -= 1
            body = body[: faults.cut_after]
            self.close_connection = True
        stall = faults.stall_after is not None and faults.stalls > 0
        if stall:
            faults.stalls -= 1
            body = body[: faults.stall_after]
            self.close_connection = True
        if faults.wrong_length:
            self.close_connection = True
        self._write(body)
        if stall:
            hub.stopping.wait()

    def _write(self, body: bytes) -> None:
        self.wfile.write(body)
        self.wfile.flush()
        self.hub.bytes_sent += len(body)
