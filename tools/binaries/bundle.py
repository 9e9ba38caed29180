"""Put binaries into the package and take them out; pack them into a bundle whose bytes depend on the binaries alone."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from tools.binaries.errors import PreparationError
from tools.binaries.fetch import write_member
from tools.binaries.lock import ROOT, hash_file
from tools.binaries.records import RECORD_NAME, check_directory, list_backends, list_files, read_record

__all__ = ["INDEX_NAME", "STAGED", "pack", "read_version", "stage", "unstage", "verify"]

STAGED = ROOT / "src" / "llcuda" / "binaries"
VERSION_FILE = ROOT / "src" / "llcuda" / "__init__.py"
INDEX_NAME = "index.json"


def verify(directory: Path) -> None:
    """Check a folder against its BUILD.json and the wheel's rules. Raises PreparationError naming every problem."""
    if problems := check_directory(directory):
        raise PreparationError(f"{directory} is not whole:\n" + "\n".join(f"  {problem}" for problem in problems))


def stage(*sources: Path, target: Path = STAGED) -> None:
    """Put the binaries of folders or bundles into the package, verified, in place of what was staged before.

    One source has the executables; each other one adds a CUDA backend's folder.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".stage-", dir=target.parent) as temporary:
        new = Path(temporary) / "new"
        new.mkdir()
        for number, source in enumerate(sources):
            folder = source if source.is_dir() else unpack_bundle(source, Path(temporary) / f"bundle-{number}")
            verify(folder)
            copy_recorded(folder, new)
        if not (new / RECORD_NAME).exists():
            raise PreparationError("none of the sources has the executables; add the folder of a CPU build")
        verify(new)
        if target.exists():
            target.rename(Path(temporary) / "old")
        new.rename(target)


def copy_recorded(source: Path, target: Path) -> None:
    for folder in (source, *list_backends(source)):
        if (folder / RECORD_NAME).exists():
            record = read_record(folder)
            copy_folder(folder, target / record["profile"] if record["toolkit"] else target)


def copy_folder(source: Path, target: Path) -> None:
    if (target / RECORD_NAME).exists():
        raise PreparationError(f"{target.name} is in two of the sources; give each once")
    for path in [source / RECORD_NAME, *list_files(source)]:
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)


def unpack_bundle(bundle: Path, target: Path) -> Path:
    target.mkdir()
    try:
        with tarfile.open(bundle, mode="r:gz") as tar:
            for member in tar:
                path = Path(member.name)
                if not member.isreg() or path.is_absolute() or ".." in path.parts:
                    raise PreparationError(
                        f"{bundle} holds something other than a regular file below its folder: {member.name!r}"
                    )
                write_member(tar, member, target=target / path)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise PreparationError(f"{bundle} is damaged or missing ({error}). Get it again.") from error
    return target


def unstage(*, target: Path = STAGED) -> bool:
    """Remove the staged binaries; return False when there were none."""
    if not target.exists():
        return False
    shutil.rmtree(target)
    return True


def pack(source: Path, *, output: Path) -> Path:
    """Write `source` as a bundle into `output`, its hash (.sha256) beside it and its entry into the folder's index.

    Return the bundle. Its bytes depend on the binaries alone; a folder with backends of its own is packed without them.
    """
    verify(source)
    record = read_record(source)
    output.mkdir(parents=True, exist_ok=True)
    bundle = output / f"llcuda-{read_version()}-{record['profile']}-linux-x86_64.tar.gz"
    with (
        bundle.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=9, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for path in [source / RECORD_NAME, *list_files(source)]:
            add_member(tar, path, name=path.relative_to(source).as_posix())
    write_index(bundle, record)
    return bundle


def read_version() -> str:
    """Return the package's version, without importing it."""
    found = re.search(r'^__version__ = "([^"]+)"$', VERSION_FILE.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise PreparationError(f"{VERSION_FILE} states no version")
    return found[1]


def add_member(tar: tarfile.TarFile, path: Path, *, name: str) -> None:
    member = tarfile.TarInfo(name)
    member.size = path.stat().st_size
    member.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
    with path.open("rb") as file:
        tar.addfile(member, file)


def write_index(bundle: Path, record: dict[str, Any]) -> None:
    """Add the bundle to the index of its folder, in place of an older one of the same name."""
    digest = hash_file(bundle)
    bundle.with_name(bundle.name + ".sha256").write_text(f"{digest}  {bundle.name}\n", encoding="utf-8")
    entry = {
        "name": bundle.name,
        "version": read_version(),
        "sha256": f"sha256:{digest}",
        "bytes": bundle.stat().st_size,
        "unpacked_bytes": sum(file["bytes"] for file in record["files"].values()),
        **{key: record[key] for key in ("llama_cpp", "profile", "cpu_variants", "toolkit", "architectures", "date")},
        "driver_floor": (record.get("cuda") or {}).get("driver_floor"),
    }
    path = bundle.with_name(INDEX_NAME)
    others = [other for other in read_index(path) if other["name"] != bundle.name] if path.exists() else []
    bundles = sorted([*others, entry], key=lambda one: str(one["name"]))
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    temporary.write_text(json.dumps({"schema": 1, "bundles": bundles}, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_index(path: Path) -> list[dict[str, Any]]:
    """Read the entries of an index. Raises PreparationError where it cannot be read."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        entries = index["bundles"] if index["schema"] == 1 else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PreparationError(f"{path} is damaged ({error!r}). Remove it and pack again.") from error
    if not isinstance(entries, list):
        raise PreparationError(f"{path} is not an index that this version reads")
    return entries
