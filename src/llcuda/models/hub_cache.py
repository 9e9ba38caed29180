"""The hub's own cache on this disk, as huggingface_hub keeps it. Nothing here opens a connection or loads that.

::

    models--org--name/
    ├── refs/main                  the commit that ``main`` was when something was last downloaded
    ├── snapshots/<commit>/…       links to the blobs under the names they have in the repository
    └── blobs/<sha256>
    .locks/llcuda/                 half-downloaded files; huggingface_hub looks past what is in .locks
"""

from __future__ import annotations

import contextlib
import glob
import os
from pathlib import Path

from llcuda.errors import UsageError
from llcuda.settings import get_path, user_dir
from llcuda.store import parse_digest, place_file
from llcuda.store.atomic_files import move_into_place, replace_link, writing
from llcuda.store.digests import remember_digest


def cache_dir() -> Path:
    """Return the hub's cache: HF_HUB_CACHE, else ``hub`` in HF_HOME, else in the XDG cache folder."""
    chosen = get_path("HF_HUB_CACHE") or get_path("HUGGINGFACE_HUB_CACHE")
    if chosen:
        return chosen
    cache = get_path("XDG_CACHE_HOME") or user_dir() / ".cache"
    return (get_path("HF_HOME") or cache / "huggingface") / "hub"


def downloads_dir() -> Path:
    """Return where half-downloaded files lie: on the disk of the cache."""
    return cache_dir() / ".locks" / "llcuda"


def blob_path(repository: str, digest: str) -> Path:
    """Return where the file with this digest lies or would lie."""
    return _folder(repository) / "blobs" / parse_digest(digest).partition(":")[2]


def place(repository: str, file: str, *, digest: str, commit: str, revision: str, part: Path | None = None) -> Path:
    """Give the ``file`` of the repository its place for this ``commit``, which is that of ``revision`` from now on.

    Its content, whose digest was compared, is moved here from ``part``, or is here already. Raises ModelError if the
    cache cannot be written.
    """
    folder, blob = _folder(repository), blob_path(repository, digest)
    path = folder / "snapshots" / commit / file
    with writing(path):
        blob.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        if part is not None:
            move_into_place(part, blob)
        remember_digest(blob, digest)
        try:
            replace_link(path, Path(os.path.relpath(blob, path.parent)))
        except PermissionError:
            blob.replace(path)  # a disk without links, such as a USB stick: huggingface_hub does the same
    if revision != commit:
        with place_file(folder / "refs" / revision) as ref:
            ref.write(commit.encode())
    return path


def _folder(repository: str) -> Path:
    return cache_dir() / f"models--{repository.replace('/', '--')}"


def list_cached(repository: str, revision: str = "main") -> dict[str, Path]:
    """Return the GGUF files of the repository that are on the disk, by their names in it.

    The commit that ``revision`` was at the last download comes first; files that only older commits have are added.
    """
    folder = _folder(repository)
    found: dict[str, Path] = {}
    for snapshot in _order_snapshots(folder, revision):
        for path in sorted(snapshot.rglob("*.gguf")):
            if path.is_file():
                found.setdefault(path.relative_to(snapshot).as_posix(), path)
    return found


def _order_snapshots(folder: Path, revision: str) -> list[Path]:
    try:
        commit = (folder / "refs" / revision).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        commit = revision
    snapshots = [path for path in (folder / "snapshots").glob("*") if path.is_dir()]
    if revision != "main":
        # Another commit's file would not be what was asked for.
        return [path for path in snapshots if path.name == commit]
    return sorted(snapshots, key=lambda path: (path.name != commit, -path.stat().st_mtime))


def cached_digest(path: Path) -> str | None:
    """Return the digest that the cache keeps the file under, as ``sha256:<64 hex>``, or None if it has none."""
    try:
        return parse_digest(f"sha256:{path.resolve().name}")
    except UsageError:
        return None


def find_name(path: Path) -> str | None:
    """Return the name of a file of the cache, with its commit, or None if the path is not one of the cache's."""
    try:
        folder, snapshots, commit, *file = path.relative_to(cache_dir()).parts
    except ValueError:
        return None
    if not folder.startswith("models--") or snapshots != "snapshots" or not file:
        return None
    return f"{folder.removeprefix('models--').replace('--', '/', 1)}@{commit}:{'/'.join(file)}"


def find_blobs(hexadecimal: str) -> list[Path]:
    """Return where the file with this digest lies, in whichever repository."""
    return sorted(cache_dir().glob(f"models--*/blobs/{hexadecimal}"))


def list_cached_repositories() -> tuple[str, ...]:
    """Return the repositories that have a GGUF file on the disk."""
    folders = sorted(cache_dir().glob("models--*--*"))
    names = [folder.name.removeprefix("models--").replace("--", "/", 1) for folder in folders]
    return tuple(name for name in names if list_cached(name))


def remove_cached(repository: str, file: str) -> int:
    """Remove the file from every snapshot, and its blob if nothing else links to it; return the bytes freed."""
    folder = _folder(repository)
    paths = [
        path for path in (folder / "snapshots").glob(f"*/{glob.escape(file)}") if path.is_symlink() or path.is_file()
    ]
    blobs = {path.resolve() for path in paths}
    freed = sum(path.stat().st_size for path in paths if not path.is_symlink())
    for path in paths:
        path.unlink()
    return freed + sum(_remove_blob(blob, folder) for blob in blobs)


def _remove_blob(blob: Path, folder: Path) -> int:
    if blob.parent != (folder / "blobs").resolve() or not blob.is_file():
        return 0
    if any(path.resolve() == blob for path in (folder / "snapshots").rglob("*") if path.is_symlink()):
        return 0
    with contextlib.suppress(FileNotFoundError):
        size = blob.stat().st_size
        blob.unlink()
        return size
    return 0
