"""Many processes at one store: nothing is lost that has a name, and nothing is there that is not what it is called.

    python -m tests.process.store.test_concurrency        16 processes with 200 operations each, for a minute
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llcuda.errors import ModelError
from llcuda.store import ModelFacts, ModelStore

if TYPE_CHECKING:
    from collections.abc import Iterator

PROCESSES, OPERATIONS, FILES = 6, 60, 5
_MINUTE = 60.0

WORK = f"""
import json, random, sys
from pathlib import Path
from llcuda.errors import ModelNotFoundError
from llcuda.storage import open_remote, pull_model, push_model
from llcuda.store import ModelFacts, ModelStore, hold_files

chance, folder, store, own = random.Random(int(sys.argv[1])), Path(sys.argv[2]), ModelStore(), {{}}
remote = open_remote(f"file://{{folder.parent}}/remote")
for number in range(int(sys.argv[3])):
    name, file = f"own-{{sys.argv[1]}}-{{chance.randrange(3)}}", folder / str(chance.randrange({FILES}))
    action = chance.choice(["put", "put", "shared", "untag", "collect", "read", "hold", "push", "pull"])
    try:
        if action in ("put", "shared"):
            name = name if action == "put" else "shared"
            taken = store.take_in(file, is_copied=chance.random() < 0.5)
            store.add(name, {{"m.gguf": taken.digest}}, ModelFacts())
            if action == "put":
                own[name] = taken.digest
        elif action == "untag" and name in own:
            del own[name]
            store.untag(name)
        elif action == "collect":
            store.collect()
        elif action == "read":
            for model in store.models():
                store.paths(model)[0].read_bytes()
        elif action == "hold" and name in own:
            with hold_files([store.path(own[name])]):
                assert store.is_in(name), name
        elif action == "push" and name in own:
            push_model(store, name, remote, progress=False)
        elif action == "pull":
            own[name] = pull_model(store, name, remote, progress=False).layers[0].digest
    except (ModelNotFoundError, FileNotFoundError):
        pass  # another process removed it at this moment
    for name, digest in own.items():
        assert store.get_link(name) == digest, (name, digest, action)
print(json.dumps(own))
"""


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("LLCUDA_HOME", str(tmp_path / "home"))
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(FILES):
        (folder / str(number)).write_bytes(bytes([number]) * 10_000)
    yield folder
    assert [path.read_bytes() for path in sorted(folder.iterdir())] == [bytes([n]) * 10_000 for n in range(FILES)]


def check(store: ModelStore) -> None:
    """Hold the store to what it promises: every file is what it is called, and every name leads to its files."""
    for digest, path in store.list().items():
        assert f"sha256:{sha256(path.read_bytes()).hexdigest()}" == digest
    for name in store.tags():
        assert store.is_in(name), name
    assert not (store.root / "quarantine").exists()
    assert not list(store.root.rglob("*.part"))


def run_at_once(files: Path, processes: int, operations: int) -> None:
    """Let processes do random operations at one store, and hold it to what it promises."""
    command = [sys.executable, "-c", WORK]
    workers = [
        subprocess.Popen(
            [*command, str(number), str(files), str(operations)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]
    kept: dict[str, str] = {}
    for worker in workers:
        out, told = worker.communicate(timeout=300)
        assert worker.returncode == 0, told
        kept |= json.loads(out)
    store = ModelStore()
    check(store)
    assert {name: store.get_link(name) for name in kept} == kept
    for name in store.tags():
        store.untag(name)
    store.collect()
    check(store)
    assert store.tags() == {}


def test_nothing_that_has_a_name_is_lost(files: Path) -> None:
    run_at_once(files, PROCESSES, OPERATIONS)


def test_a_process_that_is_killed_leaves_a_store_that_is_right(files: Path) -> None:
    for number in range(PROCESSES):
        command = [sys.executable, "-c", WORK, str(number), str(files), str(OPERATIONS)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as worker:
            while not (files.parent / "home" / "models" / "index.json").exists():
                assert worker.poll() is None
            worker.kill()
        store = ModelStore()
        for name in store.tags():
            assert store.is_in(name), name
        for digest, path in store.list().items():
            assert f"sha256:{sha256(path.read_bytes()).hexdigest()}" == digest
        store.add("last", {"m.gguf": store.take_in(files / "0").digest}, ModelFacts())


def test_a_model_whose_file_another_process_removes_meanwhile_is_an_error(files: Path) -> None:
    store = ModelStore()
    digest = store.take_in(files / "0").digest
    store.path(digest).unlink()
    with pytest.raises(ModelError):
        store.add("x", {"m.gguf": digest}, ModelFacts())
    assert store.tags() == {}


def main() -> None:
    """Try it at length."""
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "files"
        files.mkdir()
        os.environ["LLCUDA_HOME"] = f"{folder}/home"
        for number in range(FILES):
            (files / str(number)).write_bytes(bytes([number]) * 10_000)
        started, rounds = time.monotonic(), 0
        while time.monotonic() - started < _MINUTE:
            run_at_once(files, 16, 200)
            rounds += 1
        sys.stdout.write(f"{rounds} rounds of 16 processes with 200 operations each, the store was right after each\n")


if __name__ == "__main__":
    main()
