"""The store, if one of its system calls fails or is the last: strace, which is Debian's own, sees to that.

Each operation is run once to see what it asks the kernel for, and then once for each such call and each fault. Whatever
happens, no file is what it is not called, no model is lost that was there, and the user's file is as it was.

    python -m tests.process.store.test_system_calls        all faults at all calls, about five minutes
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llcuda.storage import list_remote, open_remote, pull_model, push_model
from llcuda.store import ModelFacts, ModelStore, model_store

if TYPE_CHECKING:
    from collections.abc import Iterator

OPERATIONS = ("put", "copy", "again", "untag", "collect", "export", "get", "push", "pull")
CHANGING = ("mkdir", "write", "pwrite64", "ftruncate", "linkat", "rename", "unlink", "rmdir", "fsync")
OTHERS = ("openat", "pread64", "ioctl", "flock", "newfstatat", "read", "getdents64", "lseek", "close")
FAULTS = ("signal=SIGKILL", "error=EIO", "error=ENOSPC")

WORK = """
import os, sys
from pathlib import Path
from llcuda.errors import LlcudaError
from llcuda.storage import open_remote, pull_model, push_model
from llcuda.store import ModelFacts, ModelStore, digests, model_store

def work(name, folder, store):
    if name in ("put", "copy", "again"):
        file = folder / ("old" if name == "again" else "new")
        store.add(name, {"m.gguf": store.take_in(file, is_copied=name == "copy").digest}, ModelFacts())
    elif name == "untag":
        store.untag("doomed")
    elif name == "collect":
        store.collect(store.usage().bytes - 1)
    elif name == "export":
        store.export(store.get_link("old"), folder / "out")
    elif name == "get":
        assert store.get_link("old")
    elif name == "push":
        push_model(store, "old", open_remote(f"file://{folder}/pushed"), progress=False)
    elif name == "pull":
        pull_model(store, "new", open_remote(f"file://{folder}/remote"), progress=False)

model_store._GRACE = -1.0
for line in sys.stdin:
    name, home, folder = line.split()
    os.environ["LLCUDA_HOME"] = home
    go, start = os.pipe()
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(go, 1)
        try:
            work(name, Path(folder), ModelStore())
            said = b"done"
        except LlcudaError as error:
            said = b"refused"
        except BaseException as error:
            said = f"{type(error).__name__}: {error}".encode()
        os.write(tell, said)
        os._exit(0)
    for end in (go, tell):
        os.close(end)
    print(child, flush=True)
    sys.stdin.readline()
    os.write(start, b"x")
    said = os.read(told, 4096).decode()
    os.waitpid(child, 0)
    for end in (start, told):
        os.close(end)
    print(said.replace(chr(10), " "), flush=True)
"""


class Kernel:
    """A process that does one operation after the other, each in a child of its own, which is traced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = folder / "files"
        self.home = folder / "home"
        self._template = folder / "template"
        self.remote, self.pushed = (open_remote(f"file://{self.files}/{name}") for name in ("remote", "pushed"))
        self.files.mkdir()
        for name in ("old", "new", "doomed"):
            (self.files / name).write_bytes(name.encode() * 5000)
        os.environ["LLCUDA_HOME"] = str(self._template)
        store = ModelStore()
        for name in ("old", "doomed"):
            model = store.add(name, {"m.gguf": store.take_in(self.files / name, is_copied=True).digest}, ModelFacts())
            store.paths(model)
            os.utime(store.root / "used" / model.digest[7:], ({"doomed": 1, "old": 2}[name],) * 2)
        os.environ["LLCUDA_HOME"] = str(folder / "elsewhere")
        other = ModelStore()
        other.add("new", {"m.gguf": other.take_in(self.files / "new").digest}, ModelFacts())
        push_model(other, "new", self.remote, progress=False)
        os.environ["LLCUDA_HOME"] = str(self.home)
        self._worker = subprocess.Popen(
            [sys.executable, "-c", WORK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, operation: str, *inject: str) -> tuple[str, str]:
        """Do an operation with a store of its own; return what came of it, and its trace."""
        worker, trace = self._worker, self.folder / "trace"
        assert worker.stdin is not None
        assert worker.stdout is not None
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.rmtree(self.files / "pushed", ignore_errors=True)
        (self.files / "out").unlink(missing_ok=True)
        shutil.copytree(self._template, self.home)
        print(operation, self.home, self.files, file=worker.stdin, flush=True)
        child = worker.stdout.readline().strip()
        faults = [f"--inject={fault}" for fault in inject]
        command = ["strace", "-f", "-p", child, "-o", str(trace), *faults]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr is not None
            attached = tracer.stderr.readline()
            print(file=worker.stdin, flush=True)
            said = worker.stdout.readline().strip()
            tracer.communicate()
        if "attached" not in attached:
            pytest.skip(f"strace may not: {attached}")
        return said, trace.read_text(encoding="utf-8", errors="replace")

    def end(self) -> None:
        self._worker.communicate()


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    before = os.environ.get("LLCUDA_HOME")
    with tempfile.TemporaryDirectory() as folder:
        running = Kernel(Path(folder))
        yield running
        running.end()
    os.environ.pop("LLCUDA_HOME")
    if before is not None:
        os.environ["LLCUDA_HOME"] = before


def count_calls(trace: str) -> Counter[str]:
    return Counter(re.findall(r"^(?:\d+ +)?(\w+)\(", trace, re.MULTILINE))


def check(kernel: Kernel, operation: str) -> None:
    store = ModelStore()
    names = store.tags()
    for digest, path in store.list().items():
        assert f"sha256:{sha256(path.read_bytes()).hexdigest()}" == digest
    assert "old" in names
    assert operation in {"untag", "collect"} or "doomed" in names
    for name in names:
        assert store.is_in(name), name
    for name in ("old", "new", "doomed"):
        assert (kernel.files / name).read_bytes() == name.encode() * 5000
    with contextlib.suppress(FileNotFoundError):
        assert (kernel.files / "out").read_bytes() == b"old" * 5000
    for model in list_remote(kernel.pushed):
        # What has a name at the remote has its files.
        third = ModelStore(kernel.folder / "third")
        assert pull_model(third, model.name, kernel.pushed, progress=False).digest == names["old"]
        shutil.rmtree(third.root)
    # The space is given back by whoever comes next.
    for path in kernel.home.rglob("*.part"):
        os.utime(path, (1, 1))
    pull_model(store, "new", kernel.remote, progress=False)
    grace, model_store._GRACE = model_store._GRACE, -1.0
    store.collect()
    model_store._GRACE = grace
    assert [path.name for path in (store.root / "downloads").glob("*") if path.suffix != ".lock"] == []
    store.add("next", {"m.gguf": store.take_in(kernel.files / "new").digest}, ModelFacts())
    assert store.is_in("next")


def inject(kernel: Kernel, operation: str, *, calls: tuple[str, ...], faults: tuple[str, ...]) -> int:
    """Do an operation once for each fault at each of its calls, and return how often."""
    said, trace = kernel.run(operation)
    assert said == "done"
    check(kernel, operation)
    counted, tried = count_calls(trace), 0
    for call in calls:
        for number in range(1, counted[call] + 1):
            for fault in faults:
                said, _ = kernel.run(operation, f"{call}:{fault}:when={number}")
                assert said in {"done", "refused", ""}, f"{operation}, {call} {number}, {fault}: {said}"
                check(kernel, operation)
                tried += 1
    return tried


@pytest.mark.parametrize(
    ("operation", "fault"),
    [
        ("put", "signal=SIGKILL"),
        ("put", "error=ENOSPC"),
        ("collect", "signal=SIGKILL"),
        ("pull", "signal=SIGKILL"),
        ("pull", "error=ENOSPC"),
        ("push", "signal=SIGKILL"),
    ],
)
@pytest.mark.timeout(900)
def test_a_fault_at_any_call_that_changes_something(kernel: Kernel, operation: str, fault: str) -> None:
    assert inject(kernel, operation, calls=CHANGING, faults=(fault,)) > 10


def main() -> None:
    """Try everything."""
    with tempfile.TemporaryDirectory() as folder:
        kernel = Kernel(Path(folder))
        for operation in OPERATIONS:
            tried = inject(kernel, operation, calls=(*CHANGING, *OTHERS), faults=FAULTS)
            sys.stdout.write(f"{operation}: {tried} faults, the store was right after each\n")
            sys.stdout.flush()
        kernel.end()


if __name__ == "__main__":
    main()
