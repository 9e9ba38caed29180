from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

import llcuda
from tests.unit.tools.binaries.test_records import FACTS
from tools.binaries.bundle import INDEX_NAME, pack, stage, unstage
from tools.binaries.errors import PreparationError
from tools.binaries.lock import hash_file
from tools.binaries.records import check_directory, write_record

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def built(tmp_path: Path) -> Path:
    return make_built(tmp_path / "built")


def make_built(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "tool").write_text("#!/bin/sh\n")
    (directory / "tool").chmod(0o755)
    (directory / "nested").mkdir()
    (directory / "nested/data").write_text("data")
    write_record(directory, facts=FACTS)
    return directory


def test_a_bundle_is_the_same_bytes_wherever_and_whenever_it_is_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    one, two = make_built(tmp_path / "one/x"), make_built(tmp_path / "two/y")
    for path in two.iterdir():
        os.utime(path, (1, 1))
    first, second = pack(one, output=tmp_path / "1"), pack(two, output=tmp_path / "2")
    assert first.name == f"llcuda-{llcuda.__version__}-native-linux-x86_64.tar.gz"
    assert first.read_bytes() == second.read_bytes()


def read_bundles(folder: Path) -> list[dict[str, Any]]:
    index = json.loads((folder / INDEX_NAME).read_text())
    assert index["schema"] == 1
    return list(index["bundles"])


def test_a_bundle_comes_with_its_hash_and_its_entry_in_the_index(tmp_path: Path, built: Path) -> None:
    bundle = pack(built, output=tmp_path / "out")
    digest = hash_file(bundle)
    assert bundle.with_name(bundle.name + ".sha256").read_text() == f"{digest}  {bundle.name}\n"
    (entry,) = read_bundles(tmp_path / "out")
    assert (entry["sha256"], entry["bytes"]) == (f"sha256:{digest}", bundle.stat().st_size)
    assert (entry["name"], entry["profile"], entry["llama_cpp"]["tag"]) == (bundle.name, "native", "b1")
    assert (entry["version"], entry["unpacked_bytes"]) == (llcuda.__version__, len("#!/bin/sh\n") + len("data"))
    assert (entry["toolkit"], entry["driver_floor"]) == (None, None)


def test_the_index_has_each_bundle_once_and_says_which_gpus_and_drivers_it_is_for(tmp_path: Path, built: Path) -> None:
    backend = tmp_path / "cuda12"
    backend.mkdir()
    (backend / "data").write_text("x")
    cuda = {"toolkit": "12.9.86", "architectures": ["sm_75"], "cuda": {"driver_floor": "550.54.14"}}
    write_record(backend, facts={**FACTS, "profile": "cuda12", **cuda})
    for source in (built, backend, built):
        pack(source, output=tmp_path / "out")
    first, second = read_bundles(tmp_path / "out")
    assert (first["profile"], second["profile"]) == ("cuda12", "native")
    assert (first["toolkit"], first["architectures"], first["driver_floor"]) == ("12.9.86", ["sm_75"], "550.54.14")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 2, "bundles": []}', '{"schema": 1, "bundles": 3}'])
def test_an_index_that_cannot_be_read_is_not_overwritten(tmp_path: Path, built: Path, text: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / INDEX_NAME).write_text(text)
    with pytest.raises(PreparationError, match=r"index\.json is (damaged|not an index)"):
        pack(built, output=tmp_path / "out")
    assert (tmp_path / "out" / INDEX_NAME).read_text() == text


@pytest.mark.parametrize("form", ["folder", "bundle"])
def test_staged_binaries_are_the_built_ones(tmp_path: Path, built: Path, form: str) -> None:
    source = built if form == "folder" else pack(built, output=tmp_path / "out")
    target = tmp_path / "package" / "binaries"
    stage(source, target=target)
    assert check_directory(target) == []
    assert (target / "BUILD.json").read_bytes() == (built / "BUILD.json").read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["binaries"]


def test_staging_replaces_what_was_staged(tmp_path: Path, built: Path) -> None:
    target = tmp_path / "binaries"
    target.mkdir()
    (target / "old").write_text("x")
    stage(built, target=target)
    assert check_directory(target) == []


def test_a_folder_that_is_not_whole_is_neither_staged_nor_packed(tmp_path: Path, built: Path) -> None:
    (built / "tool").write_text("#!/bin/no\n")
    target = tmp_path / "binaries"
    with pytest.raises(PreparationError, match=r"is not whole:\n  tool: its sha256"):
        stage(built, target=target)
    with pytest.raises(PreparationError, match="is not whole"):
        pack(built, output=tmp_path / "out")
    assert not target.exists()


@pytest.mark.parametrize("keep", [0, 10, -30])
def test_a_damaged_bundle_leaves_what_was_staged(tmp_path: Path, built: Path, keep: int) -> None:
    bundle = pack(built, output=tmp_path / "out")
    target = tmp_path / "binaries"
    stage(bundle, target=target)
    bundle.write_bytes(bundle.read_bytes()[:keep])
    with pytest.raises(PreparationError, match="damaged or missing"):
        stage(bundle, target=target)
    assert check_directory(target) == []


@pytest.mark.parametrize("name", ["../evil", "/evil"])
def test_a_bundle_cannot_write_outside_of_its_folder(tmp_path: Path, name: str) -> None:
    bundle = tmp_path / "evil.tar.gz"
    with gzip.open(bundle, "wb") as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = 1
        tar.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(PreparationError, match="other than a regular file below"):
        stage(bundle, target=tmp_path / "package" / "binaries")
    assert list((tmp_path / "package").iterdir()) == []


def test_unstage_removes_what_was_staged_and_says_whether_there_was_any(tmp_path: Path, built: Path) -> None:
    stage(built, target=tmp_path / "binaries")
    assert unstage(target=tmp_path / "binaries")
    assert not unstage(target=tmp_path / "binaries")
