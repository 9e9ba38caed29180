"""GPU upgrades of a gateway on a machine without a GPU: a T4 that is not there, and tests/standins/fake_gpu.c.

The gateway and the installer's process are the real ones; only what the driver would say is not. In this process
:func:`put_gpu` does it; ``python -m tests.upgrading serve …`` is ``llcuda serve`` on such a machine.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from llcuda.cli import main as run_cli
from llcuda.gateway.admin import install_process
from llcuda.native import read_build_info
from tests.inputs.bundles import LIBRARY, Draft, write_bundle
from tests.places import ROOT
from tests.processes import children_of
from tests.standins.fake_t4 import put_t4

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

ADMIN, USER = "sk-admin", "sk-user"
PATH = "/api/admin/upgrade-gpu"
_CHILD = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from tests.standins.fake_t4 import run_installer
sys.exit(run_installer(sys.argv[2], sys.argv[3] or None))
"""


def put_gpu(change: Callable[[object, str, Any], None] = setattr) -> None:
    """Put a T4 into this process, and into those that install for it."""
    put_t4(change)
    change(install_process, "make_command", make_command)


def make_command(action: str, source: str | None) -> list[str]:
    path = [str(ROOT), *sys.path]
    return [sys.executable, "-I", "-c", _CHILD, json.dumps(path), action, source or ""]


def write_backend(folder: Path, library: Path, *, binaries: Path, **record: Any) -> Path:
    """Write a bundle with a backend for the llama-server in use, and return it."""
    tag = read_build_info(binaries).llama_cpp_tag
    build = {"llama_cpp": {"tag": tag, "version": "0.6.0", "commit": tag}, **record}
    return write_bundle(folder, Draft(files={LIBRARY: library.read_bytes()}, record=build))


def headers(key: str = ADMIN) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def find_plan(url: str) -> dict[str, Any]:
    plan: dict[str, Any] = httpx.get(url + PATH, headers=headers(), timeout=60, trust_env=False).json()
    return plan


def post(url: str, path: str = PATH, *, body: Any = None, key: str = ADMIN) -> httpx.Response:
    body = {"consent": True} if body is None else body
    return httpx.post(url + path, json=body, headers=headers(key), timeout=60, trust_env=False)


def follow(url: str, path: str = PATH, *, body: Any = None) -> Generator[dict[str, Any], None, None]:
    """Ask for it, and yield the events as they come."""
    body = {"consent": True} if body is None else body
    with httpx.stream("POST", url + path, json=body, headers=headers(), timeout=120, trust_env=False) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"] == "text/event-stream"
        for line in answer.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


def list_installers(pid: int) -> list[int]:
    """Return the installers' processes of a gateway's."""
    return [child for child in children_of(pid) if b"run_installer" in Path(f"/proc/{child}/cmdline").read_bytes()]


if __name__ == "__main__":
    put_gpu()
    sys.exit(run_cli(sys.argv[1:]))
