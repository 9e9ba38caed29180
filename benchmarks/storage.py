"""What the store and its remotes cost, beside the programs that do a part of it.

``take in`` is a file into the store by a link, beside sha256sum, which reads it once; ``again`` the same file a second
time. ``pull`` is a file from an nginx that gives 40 MB/s a connection: over eight connections, beside aria2c with eight
and curl with one, and without the hash. ``two`` is the bytes that come if two threads want one file. ``clients`` is 16
processes that put one file into a bucket at once, and how many bytes SeaweedFS has then. ``inode`` is one model from a
path, the hub's cache, a registry and a bucket in one store. The ways take turns in every round; a ratio is taken within
its round.

    python -m benchmarks.storage [--gigabytes 2] [--rounds 5] [--only take-in pull two clients inode] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.machine import describe_machine, format_machine
from llcuda.models import put_model, resolve_model
from llcuda.storage import open_remote, pull_blob, pull_model, push_model
from llcuda.storage.pieces import RateLimit
from llcuda.store import ModelFacts, ModelStore
from tests.process.storage.servers import find_port, find_url, serve, use_bucket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_RATE = "40m"
_CLIENTS = 16
_PIECE = 64 << 20
_PUSH = """
import os, sys
from llcuda.storage import open_remote, push_model
from llcuda.store import ModelStore
push_model(ModelStore(), "big", open_remote(sys.argv[1]), progress=False)
"""


def make_file(path: Path, size: int) -> None:
    """Write a file of chance bytes."""
    with path.open("wb") as file:
        for start in range(0, size, _PIECE):
            file.write(os.urandom(min(_PIECE, size - start)))
        os.fsync(file.fileno())


def take_time(act: Callable[[], object]) -> float:
    """Return the seconds that something takes."""
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def measure_take_in(folder: Path, size: int, rounds: int) -> dict[str, Any]:
    """Return the seconds of sha256sum, of taking in by a link, and of taking in again."""
    times: dict[str, list[float]] = {"sha256sum": [], "take in": [], "again": []}
    blocks = 0
    for number in range(rounds):
        file = folder / f"file{number}"
        make_file(file, size)
        store = new_store(folder / f"home{number}")
        command = ["sha256sum", str(file)]
        times["sha256sum"].append(take_time(lambda command=command: subprocess.run(command, check=True, stdout=-3)))
        times["take in"].append(take_time(lambda store=store, file=file: store.take_in(file)))
        times["again"].append(take_time(lambda store=store, file=file: store.take_in(file)))
        before = os.statvfs(folder).f_bfree
        new_store(folder / f"more{number}").take_in(file)
        blocks = max(blocks, before - os.statvfs(folder).f_bfree)
        file.unlink()
        for home in ("home", "more"):
            shutil.rmtree(folder / f"{home}{number}")
    ratios = [own / other for own, other in zip(times["take in"], times["sha256sum"], strict=True)]
    return {
        "seconds": {way: statistics.median(values) for way, values in times.items()},
        "ratio": statistics.median(ratios), "blocks_more": blocks,
    }  # fmt: skip


def measure_pull(folder: Path, size: int, rounds: int) -> dict[str, Any]:
    """Return the MB/s of each way to get a file from a server that bounds each connection."""
    port, file = find_port(), folder / "file"
    make_file(file, size)
    store = new_store(folder / "first")
    digest = store.take_in(file).digest
    store.add("big", {"big.gguf": digest}, ModelFacts())
    rates: dict[str, list[float]] = {}
    server = folder_of(folder)
    (server / "limit-rate").write_text(_RATE)
    with serve("nginx", server, port):
        remote = open_remote(find_url("nginx", port))
        push_model(store, "big", remote, progress=False)
        address = f"{remote.url}/blobs/{digest.replace(':', '/')}"
        ways: dict[str, Callable[[Path], object]] = {
            "llcuda": lambda home: pull_blob(new_store(home), digest, remote, progress=False),
            "llcuda, no hash": lambda home: pull_unhashed(new_store(home), digest, remote),
            "curl": lambda home: run("curl", "-s", "-o", str(home), address),
        }
        if shutil.which("aria2c"):
            ways["aria2c"] = lambda home: run(
                "aria2c", "-q", "-x8", "-s8", "-k8M", "--file-allocation=none", "-d", str(home), "-o", "file", address
            )
        for _ in range(rounds):
            for way, act in ways.items():
                home = folder / "home"
                rates.setdefault(way, []).append(size / 1e6 / take_time(lambda act=act, home=home: act(home)))
                shutil.rmtree(home, ignore_errors=True)
                home.unlink(missing_ok=True)
    hashing = [plain / own for plain, own in zip(rates["llcuda, no hash"], rates["llcuda"], strict=True)]
    return {"mb_per_second": {way: statistics.median(values) for way, values in rates.items()},
            "hash_ratio": statistics.median(hashing)}  # fmt: skip


def pull_unhashed(store: ModelStore, digest: str, remote: Any) -> None:
    """Pull a file, and believe that it is the right one."""

    class Nothing:
        def update(self, _: bytes) -> None:
            """Hash nothing."""

        def hexdigest(self) -> str:
            return digest.partition(":")[2]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llcuda.storage.ranged_download.hashlib", type("Hashes", (), {"sha256": Nothing}))
        pull_blob(store, digest, remote, progress=False)


def measure_two(folder: Path, size: int) -> dict[str, Any]:
    """Return the bytes that come, over those of the file, if two threads pull it at once."""
    port, passed = find_port(), [0]
    file = folder / "file"
    make_file(file, size)
    store = new_store(folder / "first")
    digest = store.take_in(file).digest
    store.add("big", {"big.gguf": digest}, ModelFacts())
    with serve("nginx", folder_of(folder), port), counting(passed):
        remote = open_remote(find_url("nginx", port))
        push_model(store, "big", remote, progress=False)
        passed[0] = 0
        second = new_store(folder / "second")
        threads = [threading.Thread(target=lambda: pull_model(second, "big", remote, progress=False)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return {"ratio": passed[0] / size}


def measure_clients(folder: Path, size: int) -> dict[str, Any]:
    """Return what a bucket holds after many processes put one file into it at once, over the file's size."""
    port, file = find_port(), folder / "file"
    make_file(file, size)
    store = new_store(folder / "first")
    store.add("big", {"big.gguf": store.take_in(file).digest}, ModelFacts())
    data = folder_of(folder)
    with pytest.MonkeyPatch.context() as patch, serve("s3", data, port):
        use_bucket(patch, port)
        environment = {**os.environ, "LLCUDA_HOME": str(folder / "first")}
        command = [sys.executable, "-c", _PUSH, find_url("s3", port)]
        started = time.perf_counter()
        clients = [subprocess.Popen(command, env=environment) for _ in range(_CLIENTS)]
        failed = sum(client.wait() != 0 for client in clients)
        seconds = time.perf_counter() - started
        kept = sum(path.stat().st_size for path in (data / "data").rglob("*.dat"))
    return {"clients": _CLIENTS, "failed": failed, "kept_ratio": kept / size, "seconds": seconds}


def measure_inode(folder: Path) -> dict[str, Any]:
    """Return how many inodes one model has in one store, which it came to from four places."""
    store = new_store(folder / "first")
    file = folder / "model.gguf"
    shutil.copy(resolve_model("demo").path, file)
    model = put_model(file, "mine")
    digest, inodes = model.layers[0].digest, {file.stat().st_ino}
    hub = folder / "hub" / "models--org--repo" / "blobs"
    hub.mkdir(parents=True)
    os.link(file, hub / digest[7:])
    inodes.add(store.find(digest).stat().st_ino)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", str(folder / "hub"))
        store.untag("mine")
        inodes.add(resolve_model(digest).path.stat().st_ino)
        put_model(file, "mine")
        for server in ("registry", "s3"):
            port = find_port()
            with serve(server, folder_of(folder, server), port):
                use_bucket(patch, port)
                remote = open_remote(find_url(server, port))
                push_model(store, "mine", remote, progress=False)
                pull_model(store, "mine", remote, stored_name=server, progress=False)
                inodes.add(store.find(digest).stat().st_ino)
    return {"inodes": len(inodes)}


def new_store(home: Path) -> ModelStore:
    """Return the store of a machine of its own."""
    os.environ["LLCUDA_HOME"] = str(home)
    return ModelStore()


def folder_of(folder: Path, name: str = "server") -> Path:
    """Return a new folder for a server."""
    shutil.rmtree(folder / name, ignore_errors=True)
    (folder / name).mkdir()
    return folder / name


def run(*command: str) -> None:
    """Run a program, which must succeed."""
    subprocess.run(command, check=True)


@contextlib.contextmanager
def counting(passed: list[int]) -> Iterator[None]:
    """Add to ``passed`` the bytes that go either way."""
    lock, pass_on = threading.Lock(), RateLimit.pass_on

    def count(limit: RateLimit, number: int) -> None:
        with lock:
            passed[0] += number
        pass_on(limit, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RateLimit, "pass_on", count)
        yield


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    kinds = ("take-in", "pull", "two", "clients", "inode")
    parser.add_argument("--only", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--folder", help="on the disk that is to be measured (default: the temporary one)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    size = int(arguments.gigabytes * 1e9)
    measures: dict[str, Callable[[Path], dict[str, Any]]] = {
        "take-in": lambda folder: measure_take_in(folder, size, arguments.rounds),
        "pull": lambda folder: measure_pull(folder, size // 2, arguments.rounds),
        "two": lambda folder: measure_two(folder, size // 2),
        "clients": lambda folder: measure_clients(folder, size // 2),
        "inode": measure_inode,
    }
    results: dict[str, Any] = {"machine": describe_machine(), "bytes": size}
    for kind in arguments.only:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            results[kind] = measures[kind](Path(folder))
            if not arguments.json:
                print(f"{kind}: {json.dumps(results[kind])}", flush=True)
    print(json.dumps(results) if arguments.json else format_machine(results["machine"]))


if __name__ == "__main__":
    main()
