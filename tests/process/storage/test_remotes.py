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
from tests.process.storage.servers import SECRET_KEY, SERVERS, find_port, find_url, serve, use_bucket

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ODD_NAME, PLAIN_NAME = "mine ü%2F?#", "mine"


@pytest.fixture
def first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    """The store of one machine, with the demo model."""
    monkeypatch.setenv("LLCUDA_HOME", str(tmp_path / "first"))
    for name in (ODD_NAME, PLAIN_NAME):
        put_model(resolve_model("demo").path, name)
    return ModelStore()


@pytest.fixture
def second(tmp_path: Path) -> ModelStore:
    """That of another."""
    return ModelStore(tmp_path / "second" / "models")


@pytest.fixture(params=["file", "fsspec", *SERVERS])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    folder = tmp_path / "server"
    folder.mkdir()
    if request.param == "file":
        yield f"file://{folder}/a%20remote"
        return
    if request.param == "fsspec":
        yield f"memory://{folder}"
        return
    port = find_port()
    if request.param == "s3":
        use_bucket(monkeypatch, port)
    with serve(request.param, folder, port):
        yield find_url(request.param, port)


@pytest.fixture
def name(url: str) -> str:
    return PLAIN_NAME if url.startswith("oci:") else ODD_NAME


def test_what_goes_comes_back(url: str, name: str, *, first: ModelStore, second: ModelStore) -> None:
    remote = open_remote(url)
    assert list_remote(remote) == ()
    pushed = push_model(first, name, remote, progress=False)
    (listed,) = list_remote(remote)
    assert (listed.name, listed.digest, listed.layers) == (name, pushed.digest, pushed.layers)
    pulled = pull_model(second, name, remote, progress=False)
    assert (pulled.digest, pulled.layers, pulled.facts) == (pushed.digest, pushed.layers, pushed.facts)
    assert all(is_right for _, is_right in second.verify())
    assert [path.suffix for path in (second.root / "downloads").iterdir()] == [".lock", ".lock"]
    with pytest.raises(ModelNotFoundError, match="has no model of this name"):
        pull_model(second, "other", remote, progress=False)


def test_a_digest_needs_no_manifest(url: str, name: str, *, first: ModelStore, second: ModelStore) -> None:
    remote = open_remote(url)
    digest = push_model(first, name, remote, progress=False).layers[0].digest
    assert hash_file(pull_blob(second, digest, remote, progress=False)) == digest
    with pytest.raises(ModelNotFoundError, match="no file with this digest"):
        pull_blob(second, f"sha256:{'0' * 64}", remote, progress=False)


def test_what_is_there_is_not_sent_again(
    url: str, name: str, *, first: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = open_remote(url)
    push_model(first, name, remote, progress=False)
    monkeypatch.setattr(remote, "put", lambda *_, **__: pytest.fail("it is sent again"), raising=True)
    push_model(first, name, remote, remote_name="another", progress=False)
    assert sorted(model.name for model in list_remote(remote)) == sorted(["another", name])


def test_a_file_that_is_another_is_refused(
    url: str, name: str, *, first: ModelStore, second: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = open_remote(url)
    pushed = push_model(first, name, remote, progress=False)
    monkeypatch.setattr(remote, "read_range", lambda _, start, end: iter([b"x" * (end - start)]), raising=True)
    with pytest.raises(ChecksumMismatchError):
        pull_model(second, name, remote, progress=False)
    monkeypatch.undo()
    assert (second.list(), second.tags()) == ({}, {})
    assert pull_model(second, name, remote, progress=False).digest == pushed.digest


def test_what_is_no_manifest_is_an_error(tmp_path: Path, second: ModelStore) -> None:
    remote = open_remote(f"file://{tmp_path}/remote")
    for document in (b"[]", b"{", b"", b'{"layers":[]}', b"x" * (5 << 20)):
        remote.write_manifest("broken", document)
        with pytest.raises(ModelError):
            pull_model(second, "broken", remote, progress=False)
    assert (second.list(), second.tags()) == ({}, {})
    assert list_remote(remote) == ()


@pytest.mark.parametrize("server", ["nginx", "rclone"])
def test_a_server_that_dies_and_comes_back_costs_nothing_but_time(
    server: str, *, tmp_path: Path, first: ModelStore, second: ModelStore
) -> None:
    folder, port = tmp_path / "server", find_port()
    folder.mkdir()
    url = find_url(server, port)
    code = "from llcuda.cli import main; import sys; sys.exit(main())"

    def run(home: Path, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, "storage", *words, "--storage-url", url]
        environment = {**os.environ, "LLCUDA_HOME": str(home)}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    # Nobody is there when they begin.
    with run(first.root.parent, "put", PLAIN_NAME) as pushing, serve(server, folder, port):
        assert pushing.wait(100) == 0
    with run(second.root.parent, "get", PLAIN_NAME) as pulling, serve(server, folder, port):
        assert pulling.wait(100) == 0
    assert second.get_model(PLAIN_NAME).digest == first.get_model(PLAIN_NAME).digest


def test_a_mirror_gives_what_the_first_does_not(
    tmp_path: Path, *, first: ModelStore, second: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llcuda.storage.http_requests._FIRST_PAUSE", 0.01)
    absent, here, there = f"http://127.0.0.1:{find_port()}/x", f"file://{tmp_path}/here", f"file://{tmp_path}/there"
    pushed = push_model(first, ODD_NAME, open_remote([here, there]), progress=False)
    for one in (here, there):
        assert [model.name for model in list_remote(open_remote(one))] == [ODD_NAME]
    assert pull_model(second, ODD_NAME, open_remote([absent, here]), progress=False).digest == pushed.digest
    third = ModelStore(tmp_path / "third" / "models")
    for path in (tmp_path / "here" / "blobs").rglob("*"):
        if path.is_file():
            path.unlink()
    assert pull_model(third, ODD_NAME, open_remote([here, there]), progress=False).digest == pushed.digest


def test_a_server_that_is_not_there_is_an_error(first: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llcuda.storage.http_requests._FIRST_PAUSE", 0.01)
    remote = open_remote(f"http://127.0.0.1:{find_port()}/x")
    for action in (lambda: push_model(first, ODD_NAME, remote, progress=False), lambda: list_remote(remote)):
        with pytest.raises(StorageError):
            action()


@pytest.mark.parametrize(
    "url",
    [
        "", "models", "/models", "file://host/x", "http:///x", "http://u:p@127.0.0.1/x", "s3://u:p@b/x", "nothing://b/x",
        "oci://127.0.0.1/Models", "oci://127.0.0.1/x:tag", "oci://u:p@h/x", "oci://h/../x", "oci:///x", "ftp://u:p@h/x",
    ],
)  # fmt: skip
def test_what_is_no_remote_is_refused(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_remote(url)
    assert "u:p" not in str(caught.value)


def test_a_wrong_key_is_an_error_that_does_not_show_it(
    tmp_path: Path, *, first: ModelStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, port = tmp_path / "server", find_port()
    folder.mkdir()
    with serve("s3", folder, port):
        use_bucket(monkeypatch, port)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret-that-nobody-may-see")
        remote = open_remote(find_url("s3", port))
        with pytest.raises(StorageError, match=r"PermissionDenied|Unauthenticated") as caught:
            push_model(first, ODD_NAME, remote, progress=False)
    told = f"{caught.value} {caught.value.hint} {caplog.text}"
    assert "nobody-may-see" not in told
    assert SECRET_KEY not in told


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
