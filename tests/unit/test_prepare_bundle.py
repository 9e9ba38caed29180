from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.unit.test_prepare_records import FACTS
from tools.binaries.bundle import pack, stage, unstage
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
    assert first.name == "llcuda-binaries-b1-native-linux-x86_64.tar.gz"
    assert first.read_bytes() == second.read_bytes()


def test_a_bundle_comes_with_its_hash_and_an_index_entry(tmp_path: Path, built: Path) -> None:
    bundle = pack(built, output=tmp_path / "out")
    digest = hash_file(bundle)
    assert bundle.with_name(bundle.name + ".sha256").read_text() == f"{digest}  {bundle.name}\n"
    entry = json.loads(bundle.with_name(bundle.name + ".json").read_text())
    assert (entry["sha256"], entry["bytes"]) == (f"sha256:{digest}", bundle.stat().st_size)
    assert (entry["name"], entry["profile"], entry["llama_cpp"]["tag"]) == (bundle.name, "native", "b1")


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
