from __future__ import annotations

import copy
import json
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.unit.tools.binaries.test_fetch import make_archive
from tools.binaries.bump import bump, parse_tag
from tools.binaries.errors import PreparationError
from tools.binaries.lock import LOCK_PATH, Lock, hash_file, read_lock
from tools.binaries.patches import Patch

if TYPE_CHECKING:
    from pathlib import Path

CMAKE_LISTS = b"set(LLAMA_VERSION_MAJOR 1)\nset(LLAMA_VERSION_MINOR 22)\nset(LLAMA_VERSION_PATCH 3)\n"


@pytest.mark.parametrize(
    ("path", "selected"),
    [
        ("LICENSE", True),
        ("LICENSE.txt", False),
        ("src/a.cpp", True),
        ("src/deep/a.cpp", True),
        ("srcs/a.cpp", False),
        ("src/tests/a.cpp", False),
        ("src/testsuite/a.cpp", True),
        ("tools/a.txt", True),
        ("tools/deep/a.txt", False),
        ("toolset", False),
    ],
)
def test_an_entry_covers_a_file_a_folder_or_the_files_directly_in_a_folder(path: str, selected: bool) -> None:  # noqa: FBT001
    lock = Lock({"include": ["LICENSE", "src", "tools/*"], "exclude": ["src/tests"]})
    assert lock.selects(path) is selected


def test_the_digest_changes_with_whatever_decides_what_is_unpacked() -> None:
    lock = read_lock()
    digests = {lock.digest}
    for change in ({"sha256": "0" * 64}, {"folder": "x"}):
        data = copy.deepcopy(lock.data)
        data["source"].update(change)
        digests.add(Lock(data).digest)
    for key in ("include", "exclude"):
        digests.add(Lock({**lock.data, key: [*lock.data[key], "x"]}).digest)
    digests.add(Lock(lock.data, (Patch("0001-x.patch", "x"),)).digest)
    assert len(digests) == 6
    assert Lock({**lock.data, "upstream": "elsewhere"}, lock.patches).digest == lock.digest


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"tag": "b1", "source": {}}'])
def test_a_damaged_lock_says_how_to_restore_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lock"
    path.write_text(text)
    with pytest.raises(PreparationError, match=r"is damaged .* Restore it with `git checkout`"):
        read_lock(path)


def test_a_missing_lock_says_how_to_restore_it(tmp_path: Path) -> None:
    with pytest.raises(PreparationError, match=r"No such file or directory\. It is part of the repository"):
        read_lock(tmp_path / "lock")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("b11434", ("b11434", "11434.0.0")), ("11434", ("b11434", "11434.0.0")), ("11434.0.1", ("b11434", "11434.0.1"))],
)
def test_a_tag_and_a_version_name_the_same_build(text: str, expected: tuple[str, str]) -> None:
    assert parse_tag(text) == expected


@pytest.mark.parametrize("text", ["", "latest", "v0.6.0", "11434.0", "b11434; rm"])
def test_anything_else_names_no_build(text: str) -> None:
    with pytest.raises(PreparationError, match="neither an upstream tag"):
        parse_tag(text)


def test_bump_rewrites_the_lock_and_nothing_else(tmp_path: Path) -> None:
    files = {"p-2/llama.cpp/CMakeLists.txt": CMAKE_LISTS, "p-2/llama.cpp/src/a.cpp": b"int a;\n"}
    archive = make_archive(tmp_path / "p-12000.0.0.tar.gz", files=files)
    path = tmp_path / "lock"
    shutil.copy(LOCK_PATH, path)
    bump("b12000", archive=archive, lock_path=path)
    new, old = json.loads(path.read_text()), read_lock().data
    assert (new["tag"], new["version"], new["tree"]["files"]) == ("b12000", "1.22.3", 2)
    assert new["source"] == {
        **old["source"],
        "version": "12000.0.0",
        "sha256": hash_file(archive),
        "bytes": archive.stat().st_size,
    }
    assert list(new) == list(old)
    assert all(new[key] == old[key] for key in ("name", "license", "upstream", "include", "exclude"))
    assert sorted(found.name for found in tmp_path.iterdir()) == ["lock", "p-12000.0.0.tar.gz"]


def test_the_lock_is_laid_out_as_bump_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text(json.dumps(read_lock().data, indent=2) + "\n")
    assert path.read_bytes() == LOCK_PATH.read_bytes()


def test_bump_says_what_must_learn_when_upstream_states_its_version_in_a_new_way(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a.tar.gz", files={"p-2/llama.cpp/CMakeLists.txt": b"project(x VERSION 1.2)\n"})
    path = tmp_path / "lock"
    shutil.copy(LOCK_PATH, path)
    with pytest.raises(PreparationError, match="read_version"):
        bump("b12000", archive=archive, lock_path=path)
    assert path.read_bytes() == LOCK_PATH.read_bytes()
