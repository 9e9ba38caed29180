"""Remotes: what goes to a real server comes back, and a server that dies costs nothing but time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from llcuda.errors import ChecksumMismatchError, ModelError, ModelNotFoundError, StorageError, UsageError
from llcuda.models import put_model, resolve_model
from llcuda.storage import list_remote, open_remote, pull_blob, pull_model, push_model
from llcuda.store import ModelStore, hash_file
from tests.process.storage.servers import SERVERS, find_port, serve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "mine ü%2F?#"


@pytest.fixture
def first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    """The store of one machine, with the demo model."""
    monkeypatch.setenv("LLCUDA_HOME", str(tmp_path / "first"))
    put_model(resolve_model("demo").path, NAME)
    return ModelStore()


@pytest.fixture
def second(tmp_path: Path) -> ModelStore:
    """That of another."""
    return ModelStore(tmp_path / "second" / "models")


@pytest.fixture(params=["file", *SERVERS])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "server"
    folder.mkdir()
    if request.param == "file":
        yield f"file://{folder}/a%20remote"
        return
    port = find_port()
    with serve(request.param, folder, port):
        yield f"http://127.0.0.1:{port}/models"


def test_what_goes_comes_back(url: str, first: ModelStore, second: ModelStore) -> None:
    remote = open_remote(url)
    assert list_remote(remote) == ()
    pushed = push_model(first, NAME, remote, progress=False)
    (listed,) = list_remote(remote)
    assert (listed.name, listed.digest, listed.layers) == (NAME, pushed.digest, pushed.layers)
    pulled = pull_model(second, NAME, remote, progress=False)
    assert (pulled.digest, pulled.layers, pulled.facts) == (pushed.digest, pushed.layers, pushed.facts)
    assert all(is_right for _, is_right in second.verify())
    assert not list((second.root / "downloads").glob("*[0-9a-f]"))
    with pytest.raises(ModelNotFoundError, match="has no model of this name"):
        pull_model(second, "other", remote, progress=False)


def test_a_digest_needs_no_manifest(url: str, first: ModelStore, second: ModelStore) -> None:
    remote = open_remote(url)
    digest = push_model(first, NAME, remote, progress=False).layers[0].digest
    assert hash_file(pull_blob(second, digest, remote, progress=False)) == digest
    with pytest.raises(ModelNotFoundError, match="no file with this digest"):
        pull_blob(second, f"sha256:{'0' * 64}", remote, progress=False)


def test_what_is_there_is_not_sent_again(url: str, first: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = open_remote(url)
    push_model(first, NAME, remote, progress=False)
    monkeypatch.setattr(remote, "put", lambda *_, **__: pytest.fail("it is sent again"), raising=True)
    push_model(first, NAME, remote, progress=False)


def test_a_file_that_is_another_is_refused(url: str, first: ModelStore, second: ModelStore) -> None:
    remote = open_remote(url)
    pushed = push_model(first, NAME, remote, progress=False)
    digest = pushed.layers[0].digest
    remote.write(f"blobs/sha256/{digest[7:]}", b"x" * pushed.bytes)
    with pytest.raises(ChecksumMismatchError):
        pull_model(second, NAME, remote, progress=False)
    assert (second.list(), second.tags()) == ({}, {})
    remote.write(f"names/{NAME}", b"[]")
    remote.write("names/broken", b"{")
    with pytest.raises(ModelError):
        pull_model(second, "broken", remote, progress=False)


@pytest.mark.parametrize("server", ["nginx", "rclone"])
def test_a_server_that_dies_and_comes_back_costs_nothing_but_time(
    server: str, *, tmp_path: Path, first: ModelStore, second: ModelStore
) -> None:
    folder, port = tmp_path / "server", find_port()
    folder.mkdir()
    url = f"http://127.0.0.1:{port}/models"
    code = "from llcuda.cli import main; import sys; sys.exit(main())"

    def run(home: Path, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, "storage", *words, "--storage-url", url]
        environment = {**os.environ, "LLCUDA_HOME": str(home)}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    # Nobody is there when they begin.
    with run(first.root.parent, "put", NAME) as pushing, serve(server, folder, port):
        assert pushing.wait(100) == 0
    with run(second.root.parent, "get", NAME) as pulling, serve(server, folder, port):
        assert pulling.wait(100) == 0
    assert second.get_model(NAME).digest == first.get_model(NAME).digest


def test_a_server_that_is_not_there_is_an_error(first: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llcuda.storage.http_remote._FIRST_PAUSE", 0.01)
    remote = open_remote(f"http://127.0.0.1:{find_port()}/x")
    for action in (lambda: push_model(first, NAME, remote, progress=False), lambda: list_remote(remote)):
        with pytest.raises(StorageError):
            action()


@pytest.mark.parametrize(
    "url", ["", "models", "/models", "ftp://x/y", "file://host/x", "http:///x", "http://u:p@127.0.0.1/x", "s3://b/x"]
)
def test_what_is_no_remote_is_refused(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_remote(url)
    assert "u:p" not in str(caught.value)


def test_at_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*words: str, home: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "llcuda", *words], env={**os.environ, "LLCUDA_HOME": str(tmp_path / home)},
            capture_output=True, text=True, timeout=100, check=True,
        )  # fmt: skip
        return json.loads(done.stdout) if "--json" in words else done.stdout

    monkeypatch.setenv("LLCUDA_STORAGE_URL", f"file://{tmp_path}/remote")
    demo = str(resolve_model("demo").path)
    assert f"at file://{tmp_path}/remote" in run("storage", "put", demo, "--name", "mine", home="first")
    (listed,) = run("storage", "list", "--json", home="second")
    assert listed["name"] == "mine"
    assert run("storage", "get", "mine", home="second") == "use it with -m mine\n"
    assert run("infer", "-m", "mine", "--temperature", "0", "What is 2+2?", home="second") == "2 + 2 = 4.\n"
    out = tmp_path / "out.gguf"
    run("storage", "get", listed["layers"][0]["digest"], "-o", str(out), home="third")
    assert hash_file(out) == listed["layers"][0]["digest"]
