"""A real server that is killed while a file goes there or comes from there, and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import obstore.store
import pytest

from llcuda.storage import open_remote, pull_blob, pull_model, push_model
from llcuda.storage.pieces import CHUNK_BYTES, RateLimit
from llcuda.store import Layer, ModelFacts, ModelStore, hash_file
from tests.process.storage.servers import find_port, find_url, serve, use_bucket
from tests.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIZE = 6 * CHUNK_BYTES + 12345
RATE = 40 << 20


class Counter:
    """Counts the bytes that pass in both directions, and lets a test act when some have."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passed = 0
        self._lock = threading.Lock()
        pass_on = RateLimit.pass_on

        def count(limit: RateLimit, number: int) -> None:
            with self._lock:
                self.passed += number
            pass_on(limit, number)

        monkeypatch.setattr(RateLimit, "pass_on", count)


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    return Counter(monkeypatch)


@pytest.fixture
def first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    """A store with a file of several parts."""
    monkeypatch.setenv("LLCUDA_HOME", str(tmp_path / "first"))
    for name in ("http_requests", "ranged_download", "keyed_remote"):
        monkeypatch.setattr(f"llcuda.storage.{name}._FIRST_PAUSE", 1.0)
    (tmp_path / "big").write_bytes(os.urandom(SIZE))
    store = ModelStore()
    store.add("big", {"big.gguf": store.take_in(tmp_path / "big").digest}, ModelFacts())
    return store


def layer_of(store: ModelStore) -> Layer:
    return store.get_model("big").layers[0]


def while_killed(
    act: Callable[[], object], server: str, *, folder: Path, port: int, counter: Counter
) -> BaseException | None:
    """Do something of which a third goes before the server is killed; return what went wrong once it is there again."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            failures.append(error)

    counter.passed = 0
    thread = threading.Thread(target=work)
    with serve(server, folder, port):
        thread.start()
        wait_until(lambda: counter.passed > SIZE // 3 or not thread.is_alive())
    with serve(server, folder, port):
        thread.join()
    return failures[0] if failures else None


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path, int]:
    folder, port = tmp_path / "server", find_port()
    folder.mkdir()
    if request.param == "s3":
        use_bucket(monkeypatch, port)
    return request.param, folder, port


@pytest.mark.parametrize("place", ["nginx", "rclone", "registry"], indirect=True)
def test_a_server_is_killed_while_a_file_comes(
    place: tuple[str, Path, int], tmp_path: Path, *, first: ModelStore, counter: Counter
) -> None:
    server, folder, port = place
    remote, second = open_remote(find_url(server, port)), ModelStore(tmp_path / "second" / "models")
    with serve(server, folder, port):
        push_model(first, "big", remote, progress=False)
    failure = while_killed(
        lambda: pull_model(second, "big", remote, progress=False, bytes_per_second=RATE),
        server, folder=folder, port=port, counter=counter,
    )  # fmt: skip
    assert failure is None
    assert hash_file(second.find(layer_of(first).digest)) == layer_of(first).digest
    assert counter.passed - SIZE < CHUNK_BYTES


# SeaweedFS needs up to 40 seconds to start again after a kill: it is killed in one test.
@pytest.mark.parametrize("place", ["nginx", "rclone", "registry", "s3"], indirect=True)
def test_a_server_is_killed_while_a_file_goes(
    place: tuple[str, Path, int], tmp_path: Path, *, first: ModelStore, counter: Counter
) -> None:
    server, folder, port = place
    remote = open_remote(find_url(server, port))
    failure = while_killed(
        lambda: push_model(first, "big", remote, progress=False, bytes_per_second=RATE),
        server, folder=folder, port=port, counter=counter,
    )  # fmt: skip
    assert failure is None
    if server == "s3":
        # The others take a file as a whole; docker's registry gives up an upload of which a part broke off.
        assert counter.passed - SIZE <= CHUNK_BYTES
    with serve(server, folder, port):
        second = ModelStore(tmp_path / "second" / "models")
        pull_model(second, "big", remote, progress=False)
    assert hash_file(second.find(layer_of(first).digest)) == layer_of(first).digest


def test_a_process_is_killed_while_a_file_comes_and_the_next_goes_on(
    tmp_path: Path, *, first: ModelStore, counter: Counter
) -> None:
    folder, port = tmp_path / "server", find_port()
    folder.mkdir()
    remote, home = open_remote(find_url("nginx", port)), tmp_path / "second"
    digest = layer_of(first).digest
    with serve("nginx", folder, port):
        push_model(first, "big", remote, progress=False)
        flags = ["--storage-url", remote.url, "--limit-rate", "20MB"]
        command = [sys.executable, "-m", "llcuda", "storage", "get", digest, *flags]
        part = home / "models" / "downloads"
        with subprocess.Popen(command, env={**os.environ, "LLCUDA_HOME": str(home)}) as process:
            wait_until(lambda: sum(path.stat().st_blocks * 512 for path in part.glob("*[0-9a-f]")) > SIZE // 3)
            process.send_signal(signal.SIGKILL)
        counter.passed = 0
        assert hash_file(pull_blob(ModelStore(home / "models"), digest, remote, progress=False)) == digest
    assert counter.passed < SIZE * 3 // 4


def test_two_processes_that_want_a_file_fetch_it_once(tmp_path: Path, *, first: ModelStore, counter: Counter) -> None:
    folder, port = tmp_path / "server", find_port()
    folder.mkdir()
    remote, second = open_remote(find_url("nginx", port)), ModelStore(tmp_path / "second" / "models")
    with serve("nginx", folder, port):
        push_model(first, "big", remote, progress=False)
        counter.passed = 0
        threads = [threading.Thread(target=lambda: pull_model(second, "big", remote, progress=False)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert counter.passed <= SIZE * 1.02
    assert second.is_in("big")


def test_clients_that_put_one_file_at_once_send_it_once(
    tmp_path: Path, *, first: ModelStore, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, port = tmp_path / "server", find_port()
    folder.mkdir()
    use_bucket(monkeypatch, port)
    failures: list[BaseException] = []

    def push() -> None:
        try:
            push_model(first, "big", open_remote(find_url("s3", port)), progress=False)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            failures.append(error)

    with serve("s3", folder, port):
        threads = [threading.Thread(target=push) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        second = ModelStore(tmp_path / "second" / "models")
        assert counter.passed < SIZE + CHUNK_BYTES
        pull_model(second, "big", open_remote(find_url("s3", port)), progress=False)
    assert failures == []
    assert second.is_in("big")


def test_a_claim_whose_client_is_gone_is_taken_over(
    tmp_path: Path, *, first: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, port = tmp_path / "server", find_port()
    folder.mkdir()
    use_bucket(monkeypatch, port)
    monkeypatch.setattr("llcuda.storage.upload_claim._ABANDONED_AFTER", 2.0)
    digest = layer_of(first).digest
    with serve("s3", folder, port):
        store = obstore.store.from_url(find_url("s3", port), client_options={"allow_http": True})
        store.put(f"blobs/sha256/{digest[7:]}.uploading", b"a client that is gone")
        remote = open_remote(find_url("s3", port))
        push_model(first, "big", remote, progress=False)
        assert remote.find_bytes(digest) == SIZE
