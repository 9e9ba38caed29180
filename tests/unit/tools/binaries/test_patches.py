"""vendor/patches: what a patch may do, that it is applied exactly or not at all, and that each is in order."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.unit.tools.binaries.test_fetch import make_archive, make_lock
from tools.binaries.bump import bump
from tools.binaries.errors import PreparationError
from tools.binaries.fetch import fetch, hash_tree, tree_is_right
from tools.binaries.lock import LOCK_PATH, ROOT, Lock, read_lock, write_lock
from tools.binaries.patches import Patch, apply_patch, read_patches

if TYPE_CHECKING:
    from pathlib import Path

MAX_DIFF_LINES = 40
SOURCE = "".join(f"line {number}\n" for number in range(1, 31))
DIFF = """\
--- a/src/a.cpp
+++ b/src/a.cpp
@@ -2,3 +2,4 @@ int main() {
 line 2
-line 3
+third
+and a half
 line 4
@@ -20,3 +21,2 @@
 line 20
-line 21
 line 22
"""
PATCHED = SOURCE.replace("line 3\n", "third\nand a half\n", 1).replace("line 21\n", "")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree/src").mkdir(parents=True)
    (tmp_path / "tree/src/a.cpp").write_text(SOURCE)
    return tmp_path / "tree"


def test_every_hunk_is_applied_where_it_says(tree: Path) -> None:
    (tree / "src/a.cpp").chmod(0o755)
    apply_patch(Patch("0001-x.patch", "Why: a reason\n\n" + DIFF), tree=tree)
    assert (tree / "src/a.cpp").read_text() == PATCHED
    assert (tree / "src/a.cpp").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    ("old", "new"),
    [("line 20\n", "line 20 \n"), ("line 1\n", "line 1\nline 1b\n"), ("line 30\n", ""), ("line 4\n", "line 4\r\n")],
    ids=["context", "moved", "elsewhere", "line end"],
)
def test_a_hunk_that_does_not_match_exactly_is_refused_and_the_file_left_alone(tree: Path, old: str, new: str) -> None:
    source = SOURCE.replace(old, new)
    (tree / "src/a.cpp").write_bytes(source.encode())
    patch = Patch("0001-x.patch", DIFF)
    if old == "line 30\n":
        apply_patch(patch, tree=tree)  # what no hunk touches may be anything
        return
    with pytest.raises(PreparationError, match=r"^0001-x\.patch does not fit this build of llama\.cpp at '@@ -\d+,3"):
        apply_patch(patch, tree=tree)
    assert (tree / "src/a.cpp").read_bytes() == source.encode()


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "src/../../x"])
def test_a_path_that_leaves_the_tree_is_refused(tree: Path, name: str) -> None:
    with pytest.raises(PreparationError, match=r"names a path that leaves llama\.cpp's source"):
        apply_patch(Patch("0001-x.patch", DIFF.replace("src/a.cpp", name)), tree=tree)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no diff"),
        ("--- /dev/null\n+++ b/src/new.cpp\n@@ -0,0 +1 @@\n+new\n", "holds no diff"),
        ("--- a/src/a.cpp\n+++ /dev/null\n@@ -1 +0,0 @@\n-line 1\n", "does more than change a file"),
        (DIFF.replace("+++ b/src/a.cpp", "+++ b/src/b.cpp"), "does more than change a file"),
        (DIFF.replace("src/a.cpp", "src/b.cpp"), "src/b.cpp, which is not there"),
        (DIFF.replace("-2,3 +2,4", "-2,4 +2,4"), "is damaged at '@@ -2,4"),
        (DIFF.replace("@@ -2,3 +2,4 @@", "@@ two @@"), "is damaged at '@@ two"),
        ("--- a/src/a.cpp\n+++ b/src/a.cpp\n@@ -2,0 +3 @@\n+no context\n", "is damaged"),
    ],
)
def test_what_is_not_a_change_of_a_file_is_refused(tree: Path, text: str, message: str) -> None:
    with pytest.raises(PreparationError, match=message):
        apply_patch(Patch("0001-x.patch", text), tree=tree)
    assert (tree / "src/a.cpp").read_text() == SOURCE


def make_queue(tmp_path: Path, **patches: str) -> Lock:
    """Return a lock of a small archive with these patches, and leave both under `tmp_path`."""
    folder = tmp_path / "vendor/patches"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in patches.items():
        (folder / f"{name}.patch").write_text(text)
    archive = make_archive(tmp_path / "a.tar.gz", files={"package-1.0/upstream/src/a.cpp": SOURCE.encode()})
    write_lock(make_lock(archive).data, tmp_path / "vendor/lock")
    return read_lock(tmp_path / "vendor/lock")


def test_the_queue_is_applied_in_order_when_the_source_is_fetched(tmp_path: Path) -> None:
    second = "--- a/src/a.cpp\n+++ b/src/a.cpp\n@@ -3 +3 @@\n-third\n+fourth\n"
    lock = make_queue(tmp_path, two=second, one=DIFF)
    assert [patch.name for patch in lock.patches] == ["one.patch", "two.patch"]
    fetch(lock, archive=tmp_path / "a.tar.gz", tree=tmp_path / "tree")
    assert (tmp_path / "tree/src/a.cpp").read_text() == PATCHED.replace("third", "fourth")


def test_a_patch_that_does_not_fit_leaves_the_old_tree_alone(tmp_path: Path) -> None:
    fetch(make_queue(tmp_path), archive=tmp_path / "a.tar.gz", tree=tmp_path / "tree")
    lock = make_queue(tmp_path, one=DIFF.replace(" line 2\n", " other\n"))
    with pytest.raises(PreparationError, match=r"one\.patch does not fit"):
        fetch(lock, archive=tmp_path / "a.tar.gz", tree=tmp_path / "tree")
    assert (tmp_path / "tree/src/a.cpp").read_text() == SOURCE


def test_a_tree_that_was_patched_otherwise_is_made_anew(tmp_path: Path) -> None:
    for changed in (DIFF, DIFF.replace("+third", "+THIRD")):
        lock = make_queue(tmp_path, one=changed)
        assert not tree_is_right(lock, tree=tmp_path / "tree")
        assert fetch(lock, archive=tmp_path / "a.tar.gz", tree=tmp_path / "tree")
        assert tree_is_right(lock, tree=tmp_path / "tree")
    assert "THIRD" in (tmp_path / "tree/src/a.cpp").read_text()


def test_bump_locks_the_patched_tree_and_refuses_a_build_that_a_patch_does_not_fit(tmp_path: Path) -> None:
    make_queue(tmp_path, one=DIFF)
    upstream = "set(LLAMA_VERSION_MAJOR 1)\nset(LLAMA_VERSION_MINOR 2)\nset(LLAMA_VERSION_PATCH 3)\n"
    files = {"p-2/upstream/src/a.cpp": SOURCE.encode(), "p-2/upstream/CMakeLists.txt": upstream.encode()}
    data = read_lock(tmp_path / "vendor/lock").data
    write_lock({**data, "include": ["CMakeLists.txt", "src"]}, tmp_path / "vendor/lock")
    archive = make_archive(tmp_path / "b.tar.gz", files=files)
    lock = bump("b2", archive=archive, lock_path=tmp_path / "vendor/lock")
    fetch(lock, archive=archive, tree=tmp_path / "tree")
    assert (tmp_path / "tree/src/a.cpp").read_text() == PATCHED
    assert hash_tree(tmp_path / "tree") == lock.data["tree"]
    archive = make_archive(tmp_path / "c.tar.gz", files={**files, "p-2/upstream/src/a.cpp": PATCHED.encode()})
    with pytest.raises(PreparationError, match="or remove it if upstream has it"):
        bump("b3", archive=archive, lock_path=tmp_path / "vendor/lock")
    assert read_lock(tmp_path / "vendor/lock").tag == "b2"


@pytest.mark.parametrize("patch", read_patches(LOCK_PATH.with_name("patches")), ids=lambda patch: patch.name)
def test_a_patch_is_short_and_says_why_where_it_was_sent_until_when_and_what_tests_it(patch: Patch) -> None:
    assert re.fullmatch(r"\d{4}-[a-z0-9-]+\.patch", patch.name)
    assert len(patch.diff.splitlines()) <= MAX_DIFF_LINES
    fields = re.findall(r"^(\w+): \S", patch.header, re.MULTILINE)
    assert fields == ["Why", "Upstream", "Until", "Test"]
    (test,) = re.findall(r"^Test: (\w+)$", patch.header, re.MULTILINE)
    assert f"def {test}(" in (ROOT / "tests/process/server/test_patches.py").read_text(encoding="utf-8")


def test_the_numbers_of_the_queue_are_its_order() -> None:
    numbers = [int(patch.name[:4]) for patch in read_lock().patches]
    assert numbers == list(range(1, len(numbers) + 1))
