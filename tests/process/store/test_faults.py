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

from llcuda.store import ModelStore, hash_file, place_file

if TYPE_CHECKING:
    from pathlib import Path

SLOW_WRITE = """
import sys, time
from pathlib import Path
from llcuda.store import place_file
with place_file(Path(sys.argv[1])) as file:
    for number in range(1000):
        file.write(b"x" * 65536)
        if number == 10:
            print("writing", flush=True)
        time.sleep(0.005)
"""

ADOPT = """
import sys
from pathlib import Path
from llcuda.store import ModelStore
print("ready", flush=True)
sys.stdin.readline()
print(ModelStore().adopt(Path(sys.argv[1])))
"""

WRITE_WITH_LIMIT = """
import resource, sys
from pathlib import Path
from llcuda.errors import ModelError
from llcuda.store import place_file
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with place_file(Path(sys.argv[1])) as file:
        file.write(bytes(200_000))
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
    return [path for path in (home / "models" / "blobs" / "sha256").iterdir() if path.name.endswith(".part")]


def test_a_process_killed_while_writing_leaves_no_file_that_can_be_seen(home: Path) -> None:
    path = ModelStore().path(f"sha256:{'0' * 64}")
    with start(SLOW_WRITE, str(path)) as process:
        wait_for(process, "writing")
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert ModelStore().list() == {}
    (left,) = temporary_files(home)

    # What it left is swept away by the next one, once it is old.
    os.utime(left, (time.time() - 3600,) * 2)
    with place_file(path) as file:
        file.write(b"a model")
    assert temporary_files(home) == []


def test_two_processes_that_adopt_the_same_file_both_succeed(home: Path) -> None:
    home.mkdir()
    sources = [home / "first", home / "second"]
    content = os.urandom(5_000_000)
    for source in sources:
        source.write_bytes(content)
    expected = f"sha256:{sha256(content).hexdigest()}"
    with start(ADOPT, str(sources[0])) as first, start(ADOPT, str(sources[1])) as second:
        for process in (first, second):
            wait_for(process, "ready")
        outputs = [process.communicate("go\n")[0].strip() for process in (first, second)]
    assert outputs == [expected, expected]
    assert hash_file(ModelStore().find(expected)) == expected
    assert len(ModelStore().list()) == 1


def test_a_disk_without_space_is_an_error_that_says_what_to_do(home: Path) -> None:
    # Python ignores SIGXFSZ, so that the limit looks like a full disk: an OSError from write.
    path = ModelStore().path(f"sha256:{'0' * 64}")
    result = subprocess.run(
        [sys.executable, "-c", WRITE_WITH_LIMIT, str(path)], capture_output=True, text=True, check=True
    )
    assert "Free some space" in result.stdout
    assert ModelStore().list() == {}
    assert temporary_files(home) == []
