"""Remotes that cut, stall, lie and change their minds: the file that was meant, or an error that says what is wrong."""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from llcuda.errors import ChecksumMismatchError, LlcudaError, ModelError
from llcuda.models import put_model
from llcuda.storage import Remote, open_remote, pull_model, push_model
from llcuda.storage.ranged_download import RangedDownload
from llcuda.store import ModelStore, StoredModel, download
from tests.made_models.gguf_builder import STRING, Tensor, small_model
from tests.standins.hub_server import Faults, Hub, Raw, serve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHUNK = 1 << 18
METADATA = "http://169.254.169.254/latest/meta-data/iam"


def model_bytes(name: str) -> bytes:
    model = small_model()
    model.pairs[1] = ("general.name", STRING, name)
    model.tensors[0] = Tensor("token_embd.weight", (256, 20_000), 12)
    return model.build()


MODEL, CHANGED = model_bytes("first"), model_bytes("other")
DIGEST = sha256(MODEL).hexdigest()


@dataclass
class Place:
    """A server with a model, and a store that has none."""

    server: Hub
    remote: Remote
    store: ModelStore
    home: Path
    pushed: StoredModel

    def pull(self) -> StoredModel:
        return pull_model(self.store, "mine", self.remote, progress=False)

    def right(self) -> None:
        """Pull the model, and see that it is the one that was pushed."""
        assert self.pull().digest == self.pushed.digest
        assert self.store.find(f"sha256:{DIGEST}").read_bytes() == MODEL
        assert self.leftovers() == []

    def refused(self, match: str | None = None) -> LlcudaError:
        """Pull the model in vain, and see that nothing wrong is kept."""
        with pytest.raises(ModelError, match=match) as caught:
            self.pull()
        assert self.store.tags() == {}
        for digest, path in self.store.list().items():
            assert f"sha256:{sha256(path.read_bytes()).hexdigest()}" == digest
        self.server.faults = Faults()
        self.right()
        return caught.value

    def leftovers(self) -> list[str]:
        folder = self.store.root / "downloads"
        return [path.name for path in folder.iterdir() if path.suffix != ".lock"] if folder.is_dir() else []


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("LLCUDA_HOME", str(tmp_path / "first"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("ranged_download", "http_requests", "keyed_remote"):
        monkeypatch.setattr(f"llcuda.storage.{name}._FIRST_PAUSE", 0.01)
    monkeypatch.setattr("llcuda.storage.ranged_download.CHUNK_BYTES", CHUNK)
    (tmp_path / "model.gguf").write_bytes(MODEL)
    put_model(tmp_path / "model.gguf", "mine")
    there = f"file://{tmp_path}/there"
    pushed = push_model(ModelStore(), "mine", open_remote(there), progress=False)
    with serve() as server:
        root = tmp_path / "there"
        server.plain = {f"r/{one.relative_to(root)}": one.read_bytes() for one in root.rglob("*") if one.is_file()}
        server.plain["moved"] = MODEL
        server.plain["changed"] = CHANGED
        remote = open_remote(f"{server.url}/plain/r")
        yield Place(server, remote, ModelStore(tmp_path / "second" / "models"), tmp_path, pushed)


def blob(path: str = "") -> str:
    return f"/plain/r/blobs/sha256/{DIGEST}{path}"


def test_a_model_comes_in_parts_over_several_connections(place: Place) -> None:
    place.right()
    ranges = [headers["range"] for headers in place.server.body_requests() if "range" in headers]
    assert len(set(ranges)) >= len(MODEL) // CHUNK
    assert place.server.bytes_sent < len(MODEL) + 10_000


@pytest.mark.parametrize(
    "faults",
    [
        Faults(cut_after=CHUNK // 2, cuts=6),
        Faults(cut_after=CHUNK // 2, cuts=6, ignore_range=True),
        Faults(ignore_range=True),
        Faults(stall_after=CHUNK // 2, stalls=2),
        Faults(status=503, statuses=3),
        Faults(status=429, statuses=3),
        Faults(no_validator=True),
        Faults(ignore_if_range=True),
    ],
)
def test_it_comes_right_in_the_end(place: Place, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download.follow_redirects, "__kwdefaults__", {"stall_timeout": 0.5, "method": "GET"})
    place.server.faults = faults
    place.right()


@pytest.mark.parametrize(
    ("faults", "match"),
    [
        (Faults(wrong_bytes=True), None),
        (Faults(wrong_range_start=True), "another part"),
        (Faults(encoding="gzip"), "encoded"),
        (Faults(no_length=True), "how long"),
        (Faults(status=403), "403"),
        (Faults(status=500), "500"),
        (Faults(range_status=416), "416"),
        (Faults(range_status=404), "404"),
        (Faults(redirect="file:///etc/passwd"), "no address"),
        (Faults(redirect="ftp://127.0.0.1/x"), "no address"),
        (Faults(redirect="//"), "no address|could not|no host|Invalid"),
        (Faults(redirect=METADATA), "own network"),
        (Faults(redirect="http://2852039166/latest"), "own network"),
        (Faults(redirect="http://0xa9fea9fe/latest"), "own network"),
        (Faults(redirect="http://[fe80::1]/x"), "own network"),
        (Faults(redirect="http://[::ffff:169.254.169.254]/x"), "own network"),
        (Faults(redirect="/plain/r/names/mine"), "redirected"),
        (Faults(raw=Raw(blob(), b"HTTP/1.1 206 x\r\nContent-Range: bytes 0-1/2\r\n\r\n", b"x" * 65536)), None),
        (Faults(raw=Raw(blob(), b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n")), "how long|bytes"),
        (Faults(raw=Raw(blob(), b"nonsense\r\n\r\n")), None),
        (Faults(raw=Raw("/names/", b"HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\n\r\n")), "may have"),
        (Faults(raw=Raw("/names/", b"HTTP/1.1 302 x\r\nLocation: file:///etc/passwd\r\n\r\n")), "no address"),
    ],
)  # fmt: skip
def test_it_is_an_error_that_says_what_is_wrong(place: Place, faults: Faults, match: str | None) -> None:
    place.server.faults = faults
    place.refused(match)


@pytest.mark.parametrize("more", [-1000, 1000])
def test_a_length_that_is_a_lie_is_found_out(place: Place, more: int) -> None:
    place.server.faults = Faults(wrong_length=more)
    place.refused()


def test_a_file_that_changes_half_way_is_never_mixed_with_the_old_one(place: Place) -> None:
    place.server.faults = Faults(change_after=6)
    with pytest.raises(ChecksumMismatchError):
        place.pull()
    assert place.leftovers() == []
    place.server.faults = Faults()
    place.right()


def test_a_redirect_within_the_network_is_followed(place: Place) -> None:
    assert place.server.plain.pop(f"r/blobs/sha256/{DIGEST}") == MODEL
    moved = b"HTTP/1.1 307 x\r\nLocation: /plain/moved\r\nContent-Length: 0\r\n\r\n"
    place.server.faults = Faults(raw=Raw(blob(), moved))
    place.right()


def test_a_partial_file_that_somebody_cuts_off_is_an_error(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    find_front = RangedDownload._find_front

    def cut_off(download: RangedDownload, position: int) -> int:
        front = find_front(download, position)
        if front > position:
            os.truncate(download._part, 0)
        return front

    with monkeypatch.context() as patch:
        patch.setattr(RangedDownload, "_find_front", cut_off)
        with pytest.raises(ModelError):
            place.pull()
    place.right()
