"""The store when processes are killed, run at once, or find no space."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from llcuda.store import ModelStore

if TYPE_CHECKING:
    from pathlib import Path

SLOW_ADD = """
import sys, time
from llcuda.store import ModelStore
class Slow:
    def __init__(self): self.left = 1000
    def read(self, size):
        self.left -= 1
        if self.left == 990:
            print("writing", flush=True)
        time.sleep(0.005)
        return b"x" * 65536 if self.left else b""
ModelStore().add(Slow())
"""

ADD_FILE = """
import sys
from llcuda.store import ModelStore
print("ready", flush=True)
sys.stdin.readline()
print(ModelStore().add(sys.argv[1]))
"""

ADD_WITH_LIMIT = """
import resource, sys
from llcuda.errors import ModelError
from llcuda.store import ModelStore
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    ModelStore().add(sys.argv[1])
except ModelError as error:
    print(error.hint)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLCUDA_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def wait_for(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline().strip() == word


def temporary_files(home: Path) -> list[Path]:
    return [path for path in (home / "models" / "blobs").iterdir() if path.name.endswith(".part")]


@pytest.mark.usefixtures("home")
def test_a_process_killed_while_adding_leaves_no_file_that_can_be_seen(home: Path) -> None:
    with start(SLOW_ADD) as process:
        wait_for(process, "writing")
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert ModelStore().list() == ()
    (left,) = temporary_files(home)

    # What it left is swept away by the next one, once it is old.
    os.utime(left, (time.time() - 3600,) * 2)
    source = home / "model"
    source.write_bytes(b"a model")
    ModelStore().add(source)
    assert temporary_files(home) == []


@pytest.mark.usefixtures("home")
def test_two_processes_that_add_the_same_file_both_succeed(tmp_path: Path) -> None:
    source = tmp_path / "model"
    source.write_bytes(os.urandom(5_000_000))
    expected = f"sha256:{sha256(source.read_bytes()).hexdigest()}"
    with start(ADD_FILE, str(source)) as first, start(ADD_FILE, str(source)) as second:
        for process in (first, second):
            wait_for(process, "ready")
        outputs = [process.communicate("go\n")[0].strip() for process in (first, second)]
    assert outputs == [expected, expected]
    store = ModelStore()
    store.verify(expected)
    assert len(store.list()) == 1


@pytest.mark.usefixtures("home")
def test_a_disk_without_space_is_an_error_that_says_what_to_do(home: Path, tmp_path: Path) -> None:
    source = tmp_path / "model"
    source.write_bytes(bytes(200_000))
    # Python ignores SIGXFSZ, so that the limit looks like a full disk: an OSError from write.
    result = subprocess.run(
        [sys.executable, "-c", ADD_WITH_LIMIT, str(source)], capture_output=True, text=True, check=True
    )
    assert "Free some space" in result.stdout
    assert ModelStore().list() == ()
    assert temporary_files(home) == []
