from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from tools.binaries.errors import PreparationError
from tools.binaries.fetch import STAMP_NAME, fetch, hash_tree, tree_is_right
from tools.binaries.lock import TREE_PATH, Lock, hash_file, read_lock

if TYPE_CHECKING:
    from pathlib import Path

FILES = {
    "package-1.0/setup.py": b"raise SystemExit\n",
    "package-1.0/upstream/LICENSE": b"MIT\n",
    "package-1.0/upstream/src/a.cpp": b"int a;\n",
    "package-1.0/upstream/src/deep/b.cpp": b"int b;\n",
    "package-1.0/upstream/src/tests/c.cpp": b"int c;\n",
    "package-1.0/upstream/tools/run.sh": b"#!/bin/sh\n",
    "package-1.0/upstream/tools/deep/no.sh": b"#!/bin/sh\n",
    "package-1.0/upstream/docs/no.md": b"no\n",
}
WANTED = ["LICENSE", "src/a.cpp", "src/deep/b.cpp", "tools/run.sh"]


def make_archive(path: Path, *, files: dict[str, bytes] | None = None, extra: tuple[tarfile.TarInfo, ...] = ()) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in (FILES if files is None else files).items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mode = 0o755 if name.endswith(".sh") else 0o644
            tar.addfile(member, io.BytesIO(content))
        for member in extra:
            tar.addfile(member)
    return path


def make_lock(archive: Path, **changes: Any) -> Lock:
    source = {"package": "package", "version": "1.0", "sha256": hash_file(archive), "folder": "upstream"}
    data = {
        "tag": "b1",
        "source": {**source, "bytes": archive.stat().st_size},
        "include": ["LICENSE", "src", "tools/*"],
        "exclude": ["src/tests"],
    }
    return Lock({**data, **changes})


def unpacked(tree: Path) -> list[str]:
    return sorted(path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file())


def test_only_the_selected_files_are_unpacked(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a.tar.gz")
    assert fetch(make_lock(archive), archive=archive, tree=tmp_path / "tree")
    assert unpacked(tmp_path / "tree") == sorted([STAMP_NAME, *WANTED])
    assert (tmp_path / "tree/src/a.cpp").read_bytes() == b"int a;\n"


def test_execute_bits_are_kept_and_nothing_is_left_beside_the_tree(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a.tar.gz")
    fetch(make_lock(archive), archive=archive, tree=tmp_path / "vendor" / "tree")
    assert (tmp_path / "vendor/tree/tools/run.sh").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "vendor/tree/LICENSE").stat().st_mode & 0o777 == 0o644
    assert [path.name for path in (tmp_path / "vendor").iterdir()] == ["tree"]


def test_nothing_is_done_when_the_right_tree_is_there(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a.tar.gz")
    lock = make_lock(archive)
    fetch(lock, archive=archive, tree=tmp_path / "tree")
    before = (tmp_path / "tree/LICENSE").stat()
    archive.unlink()
    assert not fetch(lock, archive=archive, tree=tmp_path / "tree")
    assert (tmp_path / "tree/LICENSE").stat().st_ino == before.st_ino


def test_the_tree_is_replaced_when_the_lock_has_changed(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a.tar.gz")
    fetch(make_lock(archive), archive=archive, tree=tmp_path / "tree")
    assert fetch(make_lock(archive, include=["LICENSE"]), archive=archive, tree=tmp_path / "tree")
    assert unpacked(tmp_path / "tree") == [STAMP_NAME, "LICENSE"]


def test_a_tree_without_a_stamp_counts_when_its_content_is_right(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a.tar.gz")
    fetch(make_lock(archive), archive=archive, tree=tmp_path / "tree")
    lock = make_lock(archive, tree=hash_tree(tmp_path / "tree"))
    (tmp_path / "tree" / STAMP_NAME).unlink()
    assert tree_is_right(lock, tree=tmp_path / "tree")
    (tmp_path / "tree" / STAMP_NAME).unlink()
    (tmp_path / "tree/LICENSE").write_text("edited")
    assert not tree_is_right(lock, tree=tmp_path / "tree")


def test_a_wrong_hash_is_refused_before_anything_is_unpacked(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a.tar.gz")
    lock = make_lock(archive)
    archive.write_bytes(archive.read_bytes()[:-1] + b"x")
    with pytest.raises(PreparationError, match=r"not the file that .*lock pins: its sha256 is [0-9a-f]{64}.*bump"):
        fetch(lock, archive=archive, tree=tmp_path / "tree")
    assert not (tmp_path / "tree").exists()


def test_a_truncated_archive_is_named_as_such(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a.tar.gz")
    lock = make_lock(archive)
    archive.write_bytes(archive.read_bytes()[:100])
    with pytest.raises(PreparationError, match=r"truncated: 100 of [\d,]+ bytes. Download it again"):
        fetch(lock, archive=archive, tree=tmp_path / "tree")


def test_an_archive_that_is_not_there_is_named(tmp_path: Path) -> None:
    lock = make_lock(make_archive(tmp_path / "a.tar.gz"))
    with pytest.raises(PreparationError, match=r"cannot read .*nowhere.tar.gz: No such file"):
        fetch(lock, archive=tmp_path / "nowhere.tar.gz", tree=tmp_path / "tree")


@pytest.mark.parametrize("keep", [200, 0])
def test_a_damaged_archive_leaves_the_old_tree_alone_even_when_its_hash_is_right(tmp_path: Path, keep: int) -> None:
    good = make_archive(tmp_path / "good.tar.gz")
    fetch(make_lock(good), archive=good, tree=tmp_path / "tree")
    bad = tmp_path / "bad.tar.gz"
    bad.write_bytes(good.read_bytes()[:keep] or b"not an archive")
    with pytest.raises(PreparationError, match="is damaged"):
        fetch(make_lock(bad), archive=bad, tree=tmp_path / "tree")
    assert unpacked(tmp_path / "tree") == sorted([STAMP_NAME, *WANTED])


@pytest.mark.parametrize("name", ["package-1.0/upstream/src/../../../x.cpp", "/package-1.0/upstream/src/x.cpp"])
def test_a_path_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    archive = make_archive(tmp_path / "a.tar.gz", files={name: b"x"})
    with pytest.raises(PreparationError, match="leaves its folder"):
        fetch(make_lock(archive), archive=archive, tree=tmp_path / "tree")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_anything_but_a_regular_file_is_refused_among_the_selected(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("package-1.0/upstream/src/link.cpp")
    member.type, member.linkname = kind, "/etc/passwd"
    archive = make_archive(tmp_path / "a.tar.gz", extra=(member,))
    with pytest.raises(PreparationError, match=r"other than a regular file: .*link.cpp"):
        fetch(make_lock(archive), archive=archive, tree=tmp_path / "tree")


def test_links_outside_of_what_is_selected_are_left_out(tmp_path: Path) -> None:
    member = tarfile.TarInfo("package-1.0/upstream/docs/link.md")
    member.type, member.linkname = tarfile.SYMTYPE, "no.md"
    archive = make_archive(tmp_path / "a.tar.gz", extra=(member,))
    fetch(make_lock(archive), archive=archive, tree=tmp_path / "tree")
    assert unpacked(tmp_path / "tree") == sorted([STAMP_NAME, *WANTED])


def test_an_archive_with_another_folder_inside_is_refused(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a.tar.gz", files={"package-1.0/elsewhere/LICENSE": b"MIT"})
    with pytest.raises(PreparationError, match="holds none of the files"):
        fetch(make_lock(archive), archive=archive, tree=tmp_path / "tree")


def test_the_vendored_tree_is_what_the_lock_says() -> None:
    lock = read_lock()
    assert tree_is_right(lock), "run: python prepare_binaries.py fetch"


def test_upstreams_files_are_changed_by_nothing_but_the_patches() -> None:
    lock = read_lock()
    assert hash_tree(TREE_PATH) == lock.data["tree"]
