"""The store: digests, placing, adding, names, removal. Kills and full disks are in process/store/test_faults.py."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from llcuda.errors import ChecksumMismatchError, ModelError, ModelNotFoundError, UsageError
from llcuda.store import (
    ModelFacts,
    ModelStore,
    digests,
    get_digest,
    hash_file,
    hold_files,
    parse_digest,
    place_file,
    verify_file,
)
from llcuda.store.download import lock_partial

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
            lambda digest: store.add("x", {"x.gguf": digest}, ModelFacts()),
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

        def count(path: Path | str, **options: Any) -> str:
            calls.append(str(path))
            return hash_file(path, **options)

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


class TestBlobs:
    def test_a_store_that_was_only_asked_creates_nothing(self, store: ModelStore, home: Path) -> None:
        assert store.get(DIGEST) is None
        assert store.list() == {}
        assert store.models() == ()
        assert store.get_link("x") is None
        assert not home.exists()

    def test_an_adopted_file_lies_under_its_digest(self, store: ModelStore, home: Path) -> None:
        assert add(store) == DIGEST
        path = store.get(DIGEST)
        assert path == home / "models" / "blobs" / "sha256" / DIGEST[7:]
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
        for take in (store.adopt, store.take_in):
            with pytest.raises(ChecksumMismatchError):
                take(source, expected=OTHER)
        assert source.exists()
        assert store.list() == {}

    def test_a_link_in_the_place_of_a_file_is_not_followed(self, store: ModelStore, tmp_path: Path) -> None:
        add(store, b"another")
        (tmp_path / "secret").write_bytes(CONTENT)
        store.path(DIGEST).symlink_to(tmp_path / "secret")
        assert store.get(DIGEST) is None
        assert list(store.list()) == [OTHER]

    def test_what_is_not_there_cannot_be_removed(self, store: ModelStore) -> None:
        with pytest.raises(ModelNotFoundError):
            store.remove(DIGEST)

    def test_listing_leaves_out_what_is_no_blob(self, store: ModelStore) -> None:
        path = store.path(add(store))
        for name in ("short", "README", "A" * 64):
            path.with_name(name).write_bytes(b"x")
        assert store.list() == {DIGEST: path}


class TestTakingIn:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        path = tmp_path / "model.gguf"
        path.write_bytes(CONTENT)
        return path

    def test_a_file_takes_no_space_of_its_own_and_stays(self, store: ModelStore, file: Path) -> None:
        taken = store.take_in(file)
        assert (taken.digest, taken.how in {"clone", "link"}) == (DIGEST, True)
        assert taken.how == "clone" or store.find(DIGEST).samefile(file)
        assert store.take_in(file).how == "present"
        file.unlink()
        assert store.find(DIGEST).read_bytes() == CONTENT

    def test_removing_from_the_store_leaves_the_file(self, store: ModelStore, file: Path) -> None:
        how = store.take_in(file).how
        assert store.remove(DIGEST) == (0 if how == "link" else len(CONTENT))
        assert file.read_bytes() == CONTENT

    def test_a_copy_is_made_if_it_is_asked_for_or_nothing_else_can_be(
        self, store: ModelStore, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert store.take_in(file, is_copied=True).how == "copy"
        assert not store.find(DIGEST).samefile(file)
        store.remove(DIGEST)

        def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.EXDEV, "another disk")

        monkeypatch.setattr("os.link", refuse)
        monkeypatch.setattr("fcntl.ioctl", refuse)
        assert store.take_in(file).how == "copy"
        assert hash_file(store.find(DIGEST)) == DIGEST

    def test_a_file_that_is_hashed_is_not_read_again(
        self, store: ModelStore, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.take_in(file)
        monkeypatch.setattr("llcuda.store.digests.hash_file", lambda *_, **__: pytest.fail("it is read"))
        assert store.take_in(file).how == "present"
        assert store.get(DIGEST)

    def test_a_file_that_is_changed_in_place_is_taken_out_of_the_way(self, store: ModelStore, file: Path) -> None:
        store.take_in(file)
        with store.path(DIGEST).open("r+b") as opened:
            opened.write(b"A")
        assert store.get(DIGEST) is None
        (aside,) = (store.root / "quarantine").iterdir()
        assert aside.read_bytes() == b"A" + CONTENT[1:]
        assert add(store) == DIGEST

    def test_a_file_that_changes_while_it_is_taken_in_is_refused(
        self, store: ModelStore, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def change(path: Path, **_: Any) -> str:
            digest = hash_file(path)
            file.write_bytes(b"a m0del")
            return digest

        monkeypatch.setattr("llcuda.store.blobs.get_digest", change)
        with pytest.raises(ModelError, match="changed while it was read"):
            store.take_in(file)
        assert store.list() == {}

    def test_what_is_no_file_is_refused(self, store: ModelStore, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path, tmp_path / "nothing", tmp_path / "pipe"):
            with pytest.raises(UsageError):
                store.take_in(path)


FACTS = ModelFacts(source="x", created="2026-11-30T12:00:00Z", architecture="llama", quantisation="F16")


class TestModels:
    @pytest.mark.parametrize("name", ["x", "a/b:c", "../../etc/passwd", "n" * 5000, "http://x/y?z=%00", "é\n\0"])
    def test_any_text_can_be_a_name(self, store: ModelStore, name: str) -> None:
        added = store.add(name, {"m.gguf": add(store)}, FACTS)
        assert store.get_link(name) == DIGEST
        assert (store.get_model(name), store.get_model(added.digest)) == (added, added)
        assert (added.names, added.facts.architecture, added.bytes) == ((name,), "llama", len(CONTENT))
        store.untag(name)
        assert store.get_link(name) is None
        assert store.list() == {}

    def test_a_model_needs_its_files(self, store: ModelStore) -> None:
        with pytest.raises(ModelNotFoundError):
            store.add("x", {"m.gguf": DIGEST}, FACTS)
        store.add("x", {"m.gguf": add(store)}, FACTS)
        store.path(DIGEST).unlink()
        assert (store.get_link("x"), store.is_in("x")) == (None, False)
        with pytest.raises(ModelNotFoundError):
            store.paths(store.get_model("x"))

    def test_the_same_files_are_the_same_model(self, store: ModelStore) -> None:
        first = store.add("x", {"m.gguf": add(store)}, FACTS)
        later = replace(FACTS, created="2027-01-01T00:00:00Z")
        assert store.add("x", {"m.gguf": DIGEST}, later) == first
        store.tag("y", first.digest)
        assert store.get_model("y").names == ("x", "y")
        store.untag("x")
        assert store.is_in("y")

    def test_other_files_under_a_name_are_another_model(self, store: ModelStore) -> None:
        first = store.add("x", {"m.gguf": add(store)}, FACTS)
        second = store.add("x", {"m.gguf": add(store, b"another")}, FACTS)
        assert first.digest != second.digest
        assert store.get_link("x") == OTHER

    def test_what_two_models_share_goes_with_the_last(self, store: ModelStore) -> None:
        store.add("x", {"m.gguf": add(store)}, FACTS)
        store.add("y", {"m.gguf": DIGEST, "mmproj.gguf": add(store, b"another")}, FACTS)
        assert store.untag("y") > len(b"another")
        assert store.get(DIGEST)
        assert store.get(OTHER) is None
        assert store.untag("x") > len(CONTENT)
        assert store.list() == {}

    def test_several_files_lie_under_their_own_names(self, store: ModelStore) -> None:
        files = {"m-00001-of-00002.gguf": add(store), "m-00002-of-00002.gguf": add(store, b"another")}
        model = store.add("x", files, FACTS)
        for _ in range(2):
            assert [path.name for path in store.paths(model)] == list(files)
        assert store.paths(model)[1].read_bytes() == b"another"

    @pytest.mark.parametrize("file", ["../x.gguf", "a/b.gguf", "/x.gguf", "x\0.gguf", "..", ".", ""])
    def test_a_files_name_is_no_path(self, store: ModelStore, file: str) -> None:
        add(store)
        with pytest.raises(UsageError):
            store.add("x", {file: DIGEST}, FACTS)
        assert store.tags() == {}

    def test_the_last_used_comes_first(self, store: ModelStore) -> None:
        for name in ("a", "b", "c"):
            model = store.add(name, {"m.gguf": add(store, name.encode())}, FACTS)
            used = store.root / "used" / model.digest[7:]
            store.paths(model)
            os.utime(used, (ord(name),) * 2)
        assert [model.names for model in store.models()] == [("c",), ("b",), ("a",)]

    @pytest.mark.parametrize("document", [b"", b"{", b"[]", b'{"manifests": [{"digest": "sha256:../.."}]}'])
    def test_a_damaged_index_is_an_error_that_says_what_to_do(self, store: ModelStore, document: bytes) -> None:
        store.add("x", {"m.gguf": add(store)}, FACTS)
        (store.root / "index.json").write_bytes(document)
        with pytest.raises(ModelError, match="is damaged") as caught:
            store.get_link("x")
        assert "storage put" in caught.value.hint
        assert store.get(DIGEST)

    def test_a_damaged_manifest_is_no_model(self, store: ModelStore) -> None:
        model = store.add("x", {"m.gguf": add(store)}, FACTS)
        path = store.path(model.digest)
        path.write_bytes(path.read_bytes().replace(b"m.gguf", b"n.gguf"))
        assert store.models() == ()
        assert store.get_link("x") is None
        with pytest.raises(ModelError, match="the manifest of x is damaged") as caught:
            store.collect()  # nobody can say which files it names
        assert "storage rm x" in caught.value.hint
        store.untag("x")
        assert dict(store.verify())[DIGEST]


class TestCollecting:
    @pytest.fixture
    def three(self, store: ModelStore) -> ModelStore:
        """Three models of 1000 bytes, a the longest unused."""
        for at, name in enumerate("abc"):
            model = store.add(name, {"m.gguf": add(store, name.encode() * 1000)}, FACTS)
            store.paths(model)
            os.utime(store.root / "used" / model.digest[7:], (at,) * 2)
        return store

    def test_the_longest_unused_goes_first(self, three: ModelStore) -> None:
        whole = three.usage()
        assert (whole.models, whole.files, whole.unnamed_bytes) == (3, 9, 0)
        collected = three.collect(whole.bytes - 1)
        assert collected.models == ("a",)
        assert three.usage().bytes == whole.bytes - collected.bytes_freed
        assert set(three.tags()) == {"b", "c"}

    def test_what_is_in_use_stays(self, three: ModelStore) -> None:
        first = three.path(three.get_model("a").layers[0].digest)
        with hold_files([first]):
            assert three.collect(0).models == ("b", "c")
            assert set(three.tags()) == {"a"}
        assert three.collect(0).models == ("a",)
        assert three.list() == {}

    def test_what_no_model_names_goes_once_it_is_old(
        self, three: ModelStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        add(three)
        assert three.collect().files == 0
        assert three.usage().unnamed_bytes == len(CONTENT)
        monkeypatch.setattr("llcuda.store.model_store._GRACE", -1.0)
        assert three.collect().bytes_freed == len(CONTENT)
        assert set(three.tags()) == {"a", "b", "c"}

    def test_what_is_no_file_is_not_held(self, store: ModelStore, tmp_path: Path) -> None:
        path = store.path(add(store))
        with hold_files([tmp_path, tmp_path / "nothing", path]):
            assert store.is_held(DIGEST)
        assert not store.is_held(DIGEST)
        assert not store.is_held(OTHER)


def test_a_download_that_nobody_goes_on_with_is_collected(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    names = {"old": 1.0, "new": None, "held": 1.0}
    with contextlib.ExitStack() as stack:
        for name, changed in names.items():
            with lock_partial(store.root / "downloads", name) as part:
                part.write_bytes(b"x" * 10_000)
                part.with_suffix(".chunks").write_bytes(b"x")
                if changed:
                    for path in (part, part.with_suffix(".chunks")):
                        os.utime(path, (changed, changed))
            if name == "held":
                stack.enter_context(lock_partial(store.root / "downloads", name))
        assert store.collect().bytes_freed >= 10_000
        with lock_partial(store.root / "downloads", "new") as part:
            assert part.exists()
        held = store.root / "downloads" / sha256(b"held").hexdigest()
        assert held.exists()
    assert len([path for path in (store.root / "downloads").iterdir() if path.suffix == ".chunks"]) == 2
