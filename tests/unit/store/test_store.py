"""The store: digests, placing, adding, names, removal. Kills and full disks are in process/store/test_faults.py."""

from __future__ import annotations

import json
import os
import time
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from llcuda.errors import ChecksumMismatchError, ModelError, ModelNotFoundError, UsageError
from llcuda.store import ModelStore, digests, get_digest, hash_file, parse_digest, place_file, verify_file

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = b"a model"
DIGEST = f"sha256:{sha256(CONTENT).hexdigest()}"
OTHER = f"sha256:{sha256(b'another').hexdigest()}"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLCUDA_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def store() -> ModelStore:
    return ModelStore()


def add(store: ModelStore, content: bytes = CONTENT) -> str:
    source = store.root / "incoming"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_bytes(content)
    return store.adopt(source)


class TestDigests:
    @pytest.mark.parametrize("text", [DIGEST, DIGEST.replace(":", "-"), "sha256:" + DIGEST[7:].upper()])
    def test_every_way_of_writing_a_digest_comes_out_the_same(self, text: str) -> None:
        assert parse_digest(text) == DIGEST

    @pytest.mark.parametrize(
        "text",
        [
            "", "sha256:", "sha256:abc", DIGEST + "0", DIGEST + "\n", " " + DIGEST, DIGEST[7:], "md5:" + DIGEST[7:],
            "sha256:../../../../etc/passwd", "sha256:" + "../" * 21 + "x", "sha256:" + "%2e" * 21 + "x",
            "sha256:" + "\0" * 64, "sha256:" + "g" * 64, "sha256:/" + "a" * 63, "sha256:" + "\uff10" * 64,
        ],
    )  # fmt: skip
    def test_what_is_no_digest_never_becomes_a_path(self, store: ModelStore, text: str) -> None:
        actions = (
            parse_digest,
            store.path,
            store.get,
            store.remove,
            lambda digest: store.link("x", digest),
        )
        for action in actions:
            with pytest.raises(UsageError):
                action(text)

    def test_a_files_digest_is_that_of_its_bytes(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(CONTENT)
        assert hash_file(path) == hash_file(str(path)) == DIGEST

    def test_a_file_that_differs_says_both_digests(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(CONTENT)
        verify_file(path, DIGEST)
        with pytest.raises(ChecksumMismatchError) as caught:
            verify_file(path, OTHER)
        assert (caught.value.expected, caught.value.actual) == (OTHER, DIGEST)


class TestMemory:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        path = tmp_path / "file"
        path.write_bytes(CONTENT)
        return path

    @pytest.fixture
    def hashed(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Count the real hashing."""
        calls: list[str] = []

        def count(path: Path | str) -> str:
            calls.append(str(path))
            return hash_file(path)

        monkeypatch.setattr(digests, "hash_file", count)
        return calls

    def test_a_file_is_hashed_once_while_it_stays_the_same(self, file: Path, hashed: list[str]) -> None:
        assert [get_digest(file) for _ in range(3)] == [DIGEST] * 3
        assert len(hashed) == 1

    def test_a_file_is_hashed_again_after_its_content_changed(self, file: Path, hashed: list[str]) -> None:
        get_digest(file)
        file.write_bytes(b"another")
        assert get_digest(file) == OTHER
        assert len(hashed) == 2

    def test_a_change_with_the_time_set_back_is_noticed(self, file: Path) -> None:
        get_digest(file)
        status = file.stat()
        file.write_bytes(b"a m0del")
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert get_digest(file) != DIGEST

    def test_another_file_under_the_same_name_is_hashed(self, file: Path, tmp_path: Path, hashed: list[str]) -> None:
        get_digest(file)
        fresh = tmp_path / "fresh"
        fresh.write_bytes(CONTENT)
        fresh.replace(file)
        get_digest(file)
        assert len(hashed) == 2

    @pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', "\xff"])
    def test_a_damaged_memory_costs_a_hash_and_no_error(self, file: Path, home: Path, text: str) -> None:
        (home / "models").mkdir(parents=True)
        (home / "models" / "verified.json").write_text(text, encoding="latin-1")
        assert get_digest(file) == DIGEST

    def test_the_memory_stays_small(self, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(digests, "_MAX_VERIFIED", 3)
        for number in range(6):
            path = tmp_path / str(number)
            path.write_bytes(CONTENT)
            get_digest(path)
        assert len(json.loads((home / "models" / "verified.json").read_text())) == 3

    def test_a_file_added_to_the_store_is_not_hashed_again(self, store: ModelStore, hashed: list[str]) -> None:
        digest = add(store)
        verify_file(store.path(digest), digest)
        assert not hashed


class TestPlacing:
    def test_the_file_appears_when_it_is_whole(self, tmp_path: Path) -> None:
        path = tmp_path / "deep" / "file"
        with place_file(path) as file:
            file.write(CONTENT)
            assert not path.exists()
        assert path.read_bytes() == CONTENT
        assert [entry.name for entry in path.parent.iterdir()] == ["file"]

    def test_an_error_while_writing_leaves_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(TypeError), place_file(tmp_path / "file") as file:
            file.write("text")  # type: ignore[call-overload]
        assert not list(tmp_path.iterdir())

    def test_the_umask_decides_about_the_permissions(self, tmp_path: Path) -> None:
        before = os.umask(0o027)
        try:
            with place_file(tmp_path / "file") as file:
                file.write(b"x")
        finally:
            os.umask(before)
        assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640

    def test_a_folder_that_cannot_be_made_is_a_model_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(ModelError, match="cannot be written"), place_file(tmp_path / "file" / "below") as file:
            file.write(b"x")

    def test_an_old_temporary_file_of_nobody_is_removed(self, tmp_path: Path) -> None:
        old, fresh = tmp_path / ".x.1.aa.part", tmp_path / ".x.2.bb.part"
        for path in (old, fresh):
            path.write_bytes(b"half")
        os.utime(old, (time.time() - 3600,) * 2)
        with place_file(tmp_path / "file") as file:
            file.write(b"x")
        assert not old.exists()
        assert fresh.exists()

    def test_an_old_temporary_file_that_is_still_written_stays(self, tmp_path: Path) -> None:
        with place_file(tmp_path / "first") as first:
            first.write(b"slowly")
            first.flush()
            os.utime(first.fileno(), (time.time() - 3600,) * 2)
            with place_file(tmp_path / "second") as second:
                second.write(b"x")
        assert (tmp_path / "first").read_bytes() == b"slowly"

    def test_a_name_as_long_as_names_can_be_is_placed(self, tmp_path: Path) -> None:
        with place_file(tmp_path / ("n" * 255)) as file:
            file.write(b"x")
        assert (tmp_path / ("n" * 255)).exists()


class TestStore:
    def test_a_store_that_was_only_asked_creates_nothing(self, store: ModelStore, home: Path) -> None:
        assert store.get(DIGEST) is None
        assert store.list() == ()
        assert store.get_link("x") is None
        assert not home.exists()

    def test_an_adopted_file_lies_under_its_digest(self, store: ModelStore, home: Path) -> None:
        assert add(store) == DIGEST
        path = store.get(DIGEST)
        assert path == home / "models" / "blobs" / DIGEST.replace(":", "-")
        assert path.read_bytes() == CONTENT

    def test_an_adopted_file_is_moved(self, store: ModelStore, home: Path) -> None:
        home.mkdir()
        source = home / "download"
        source.write_bytes(CONTENT)
        assert store.adopt(source, expected=DIGEST) == DIGEST
        assert not source.exists()
        assert hash_file(store.find(DIGEST)) == DIGEST

    def test_another_digest_than_expected_leaves_nothing_behind(self, store: ModelStore, tmp_path: Path) -> None:
        source = tmp_path / "model.gguf"
        source.write_bytes(CONTENT)
        with pytest.raises(ChecksumMismatchError):
            store.adopt(source, expected=OTHER)
        assert source.exists()
        assert store.list() == ()

    def test_a_link_in_the_place_of_a_file_is_not_followed(self, store: ModelStore, tmp_path: Path) -> None:
        add(store, b"another")
        (tmp_path / "secret").write_bytes(CONTENT)
        store.path(DIGEST).symlink_to(tmp_path / "secret")
        assert store.get(DIGEST) is None
        assert [blob.digest for blob in store.list()] == [OTHER]

    def test_what_is_not_there_cannot_be_removed(self, store: ModelStore) -> None:
        with pytest.raises(ModelNotFoundError):
            store.remove(DIGEST)

    @pytest.mark.parametrize("name", ["x", "a/b:c", "../../etc/passwd", "n" * 5000, "http://x/y?z=%00", "é\n\0"])
    def test_any_text_can_be_a_name(self, store: ModelStore, name: str) -> None:
        add(store)
        store.link(name, DIGEST)
        assert store.get_link(name) == DIGEST
        assert store.names() == {name: DIGEST}
        assert store.list()[0].names == (name,)
        store.unlink(name)
        assert store.get_link(name) is None

    def test_a_name_without_its_file_leads_nowhere(self, store: ModelStore) -> None:
        store.link("x", DIGEST)
        assert store.get_link("x") is None

    def test_a_damaged_name_leads_nowhere(self, store: ModelStore) -> None:
        add(store)
        store.link("x", DIGEST)
        next((store.root / "names").iterdir()).write_text('{"name": "x", "digest": "sha256:../.."}')
        assert store.get_link("x") is None
        assert store.names() == {}

    def test_removing_frees_the_bytes_and_forgets_the_names(self, store: ModelStore) -> None:
        add(store)
        add(store, b"another")
        store.link("x", DIGEST)
        store.link("y", OTHER)
        assert store.remove(DIGEST) == len(CONTENT)
        assert store.get(DIGEST) is None
        assert store.names() == {"y": OTHER}

    def test_listing_leaves_out_what_is_no_blob(self, store: ModelStore) -> None:
        add(store)
        (store.root / "blobs" / "sha256-short").write_bytes(b"x")
        (store.root / "blobs" / "README").write_bytes(b"x")
        assert [(blob.digest, blob.bytes) for blob in store.list()] == [(DIGEST, len(CONTENT))]

    def test_a_set_has_the_files_under_their_own_names(self, store: ModelStore) -> None:
        add(store)
        add(store, b"another")
        files = {"m-00001-of-00002.gguf": DIGEST, "m-00002-of-00002.gguf": OTHER}
        folder = store.make_set("address", files)
        assert store.make_set("address", files) == folder
        assert sorted(path.name for path in folder.iterdir()) == sorted(files)
        assert (folder / "m-00002-of-00002.gguf").read_bytes() == b"another"

    @pytest.mark.parametrize("name", ["../x.gguf", "a/b.gguf", "/x.gguf", "x\0.gguf", "..", ".", ""])
    def test_a_set_holds_no_paths(self, store: ModelStore, name: str) -> None:
        with pytest.raises(UsageError):
            store.make_set("address", {name: DIGEST})
