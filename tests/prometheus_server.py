"""A real Prometheus for tests, configured by the example that deploy/ has."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from tests.places import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["DEPLOY", "Prometheus", "find_program", "running_prometheus", "wait_for"]

DEPLOY = ROOT / "deploy"
_PATIENCE = 120.0


def find_program(name: str) -> str:
    """Return its path. Skips the test where it is missing, but not where everything is to be tested."""
    path = shutil.which(name)
    if path is None and os.environ.get("CI") == "true":
        pytest.fail(f"there is no {name}: tools/ci/install_programs.sh installs it")
    if path is None:
        pytest.skip(f"there is no {name}; Debian's package is called prometheus")
    return path


class Prometheus:
    """Its own HTTP API."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def get(self, path: str, **parameters: Any) -> Any:
        answer = self._http.get(f"/api/v1/{path}", params=parameters)
        body = answer.json()
        assert body["status"] == "success", body
        assert not body.get("warnings"), body
        return body["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return what an expression gives now: labels and values."""
        result = self.get("query", query=expression)["result"]
        return [(one["metric"], float(one["value"][1])) for one in result]

    def value(self, expression: str) -> float | None:
        """Return the one value, None where there is none."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return found[0][1] if found else None


@contextmanager
def running_prometheus(folder: Path, address: str, *, credentials: Path | None = None) -> Iterator[Prometheus]:
    """Read ``address`` every second, with the key that the file ``credentials`` holds, until the block ends."""
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    job["static_configs"] = [{"targets": [address]}]
    if credentials is not None:
        job["authorization"] = {"credentials_file": str(credentials)}
    config["rule_files"] = [str(DEPLOY / "prometheus" / "alerts.yml")]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        own = f"127.0.0.1:{free.getsockname()[1]}"
    command = [find_program("prometheus"), f"--config.file={path}", f"--storage.tsdb.path={folder / 'data'}",
               f"--web.listen-address={own}", "--log.level=warn"]  # fmt: skip
    with (
        (folder / "prometheus.log").open("wb") as log,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process,
        httpx.Client(base_url=f"http://{own}", trust_env=False, timeout=_PATIENCE) as http,
    ):
        try:
            wait_for(lambda: _is_ready(http, process, folder / "prometheus.log"))
            yield Prometheus(http)
        finally:
            process.terminate()
            process.wait(timeout=_PATIENCE)


def wait_for(condition: Callable[[], object]) -> None:
    """Return when it is so."""
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.1)


def _is_ready(http: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text(errors="replace")
    try:
        return http.get("/-/ready").is_success
    except httpx.TransportError:
        return False
