"""benchmarks/load.c where there is nothing to load: it ends, and leaves nothing behind to spoil other figures."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gateway_load import compile_load
from tests.processes import PATIENCE, children_of, is_alive, wait_until

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_load(tmp_path_factory.mktemp("load"))


@pytest.mark.parametrize("wish", [["-t", "0.2", "-d", "60"], ["-n", "30"], ["-n", "30", "-r", "1000"]])
def test_it_ends_where_nothing_can_be_connected_to(load: Path, tmp_path: Path, wish: list[str]) -> None:
    command = [str(load), *wish, f"unix:{tmp_path / 'none.sock'}", "{}"]
    figures = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE).stdout)
    assert figures["errors"] == figures["finished"] == figures["started"] > 0


def test_it_ends_with_who_started_it(load: Path, tmp_path: Path) -> None:
    program = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    command = [str(load), "-t", "600", f"unix:{tmp_path / 'none.sock'}", "{}"]
    with subprocess.Popen([sys.executable, "-c", program, *command]) as owner:
        wait_until(lambda: children_of(owner.pid))
        (pid,) = children_of(owner.pid)
        wait_until(lambda: Path(f"/proc/{pid}/exe").resolve() == load.resolve())
        # It opens the first file of its own once it has asked the kernel for that.
        wait_until(lambda: len(list(Path(f"/proc/{pid}/fd").iterdir())) > 3)
        owner.send_signal(signal.SIGKILL)
    wait_until(lambda: not is_alive(pid))
