"""A gateway ends in the midst of a GPU upgrade, or dies: nothing is half installed, and no process is left."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import pytest

from llcuda.installer import BinaryInstaller
from tests.places import ROOT
from tests.processes import PATIENCE, children_of, is_alive, is_gone, wait_until
from tests.standins.hub_server import serve
from tests.upgrading import follow, list_installers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("upgradable")


@pytest.mark.parametrize("moment", ["download", "prove"])
def test_an_end_in_the_middle_leaves_nothing_half_done(tmp_path: Path, bundle: Path, moment: str) -> None:
    config = tmp_path / "gateway.toml"
    with serve() as server:
        server.plain.update({path.name: path.read_bytes() for path in bundle.parent.iterdir()})
        config.touch(0o600)
        config.write_text(CONFIG.format(source=f"{server.url}/plain"))
        if moment == "download":
            server.faults.stall_after, server.faults.stalls = 4000, 1  # the index is shorter and comes whole
        with serving(config) as (process, url):
            events = follow(url)
            while next(events)["step"] != moment:
                pass
            (installer,) = list_installers(process.pid)
            relatives = [installer, *children_of(installer), *children_of(process.pid)]
            process.terminate()
            *_, last = events
            assert process.wait(PATIENCE) == 0
        assert (last["step"], last["message"]) == ("failed", "the gateway is being stopped")
        assert last["rolled_back"] is False
        wait_until(lambda: all(is_gone(pid) for pid in relatives))
    installer_here = BinaryInstaller()
    assert installer_here.list_installed() == ()
    assert list(installer_here.folder.glob("*cuda12*")) == []


def test_a_gateway_that_is_killed_takes_its_installer_with_it(tmp_path: Path, bundle: Path) -> None:
    config = tmp_path / "gateway.toml"
    with serve() as server:
        server.plain.update({path.name: path.read_bytes() for path in bundle.parent.iterdir()})
        config.touch(0o600)
        config.write_text(CONFIG.format(source=f"{server.url}/plain"))
        server.faults.stall_after, server.faults.stalls = 4000, 1
        with serving(config) as (process, url):
            events = follow(url)
            next(events)
            wait_until(lambda: server.bodies > 1)
            (installer,) = list_installers(process.pid)
            process.kill()
            process.wait()
            with pytest.raises(httpx.HTTPError):
                list(events)
        wait_until(lambda: not is_alive(installer))


CONFIG = """
port = 0
gpu_bundle = "{source}"

[[models]]
model = "demo"

[[keys]]
name = "root"
key = "sk-admin"
admin = true
"""


@contextmanager
def serving(config: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run ``llcuda serve`` in a process of its own."""
    command = [sys.executable, "-m", "tests.upgrading", "serve", "--config", str(config)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            assert process.stdout is not None
            found = None
            said: list[str] = []
            while found is None:
                line = process.stdout.readline()
                assert line, said
                said.append(line)
                found = re.search(r"http://127\.0\.0\.1:\d+", line)
            yield process, found[0]
        finally:
            process.kill()
