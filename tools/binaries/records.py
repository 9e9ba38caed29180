"""BUILD.json: what was built, from what, how, and each file's hash. Written at install time, after stripping."""

from __future__ import annotations

import datetime as dt
import json
import os
from typing import TYPE_CHECKING, Any

from tools.binaries.elf import ElfFile, is_elf, read_elf
from tools.binaries.errors import PreparationError
from tools.binaries.fatbin import read_gpu_code
from tools.binaries.lock import hash_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["RECORD_NAME", "SYSTEM_LIBRARIES", "check_directory", "list_files", "read_record", "write_record"]

RECORD_NAME = "BUILD.json"
# The only libraries that may come from the machine; every x86-64 Linux with glibc and the C++ runtime has them.
SYSTEM_LIBRARIES = frozenset(
    {"libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "ld-linux-x86-64.so.2"}
    | {"libgcc_s.so.1", "libstdc++.so.6"}
)
DRIVER = "libcuda.so.1"  # comes with the NVIDIA driver; without one a CUDA backend is not loaded
CUDA_LIBRARY = "libggml-cuda.so"


def list_files(directory: Path) -> list[Path]:
    """Return every file that the record of `directory` covers: all but itself and folders that have their own."""
    found = []
    for path in sorted(directory.iterdir()):
        if path.is_dir() and not (path / RECORD_NAME).exists():
            found += list_files(path)
        elif path.is_file() and path.name != RECORD_NAME:
            found.append(path)
    return found


def write_record(directory: Path, *, facts: dict[str, Any]) -> None:
    """Write BUILD.json into `directory`: the build's facts, SOURCE_DATE_EPOCH (else now) as date, each file's hash."""
    files = {
        path.relative_to(directory).as_posix(): {
            "sha256": f"sha256:{hash_file(path)}",
            "bytes": path.stat().st_size,
            "executable": bool(path.stat().st_mode & 0o100),
        }
        for path in list_files(directory)
    }
    record = {"schema": 1, **facts, "date": build_date(), "files": files}
    target = directory / RECORD_NAME
    target.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    target.chmod(0o644)


def build_date() -> str:
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    moment = dt.datetime.fromtimestamp(int(epoch), tz=dt.timezone.utc) if epoch else now()
    return moment.isoformat(timespec="seconds")


def now() -> dt.datetime:
    return dt.datetime.now(tz=dt.timezone.utc)


def read_record(directory: Path) -> dict[str, Any]:
    """Read a folder's BUILD.json. Raises PreparationError when there is none or it cannot be read."""
    path = directory / RECORD_NAME
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PreparationError(f"{path}: {error.strerror}. Build first: python prepare_binaries.py build") from error
    except ValueError as error:
        raise PreparationError(f"{path} is damaged: {error}. Build or stage again.") from error
    if not isinstance(record, dict) or record.get("schema") != 1 or not isinstance(record.get("files"), dict):
        raise PreparationError(f"{path} is not a record that this version reads")
    return record


def list_backends(directory: Path) -> list[Path]:
    """Return the folders below `directory` that have a record of their own: its CUDA backends."""
    return sorted(path.parent for path in directory.glob(f"*/{RECORD_NAME}"))


def list_toolkits(directory: Path) -> list[str]:
    """Return the versions of the CUDA toolkits that a folder's backends were built with; it need not exist."""
    return [toolkit for folder in list_backends(directory) if (toolkit := read_record(folder)["toolkit"])]


def check_directory(directory: Path) -> list[str]:
    """Return what is wrong with a binaries folder and its backends, one line each; an empty list: it is whole.

    A folder that holds nothing but backends is checked as such: their other libraries come with what they are added to.
    """
    backends = list_backends(directory)
    alone = bool(backends) and not (directory / RECORD_NAME).exists()
    problems = [] if alone else check_folder(directory)
    for backend in backends:
        problems += [f"{backend.name}/{problem}" for problem in check_folder(backend)]
        problems += [] if alone else check_same_build(directory, backend)
    return problems


def check_same_build(directory: Path, backend: Path) -> list[str]:
    ours, theirs = (read_record(folder)["llama_cpp"]["tag"] for folder in (directory, backend))
    return [] if ours == theirs else [f"{backend.name}: built from llama.cpp {theirs}, the executables from {ours}"]


def check_folder(directory: Path) -> list[str]:
    record = read_record(directory)
    present = {path.relative_to(directory).as_posix(): path for path in list_files(directory)}
    problems = [f"{name}: in BUILD.json, but not there" for name in sorted(record["files"].keys() - present.keys())]
    problems += [f"{name}: not in BUILD.json" for name in sorted(present.keys() - record["files"].keys())]
    for name in sorted(record["files"].keys() & present.keys()):
        problems += [f"{name}: {what}" for what in check_file(present[name], record["files"][name])]
    libraries = {path.name for path in present.values()} | list_chosen(record)
    for name, path in present.items():
        if is_elf(path):
            check = check_backend if path.name == CUDA_LIBRARY else check_elf
            problems += [f"{name}: {what}" for what in check(read_elf(path), name=path.name, libraries=libraries)]
    if CUDA_LIBRARY in present and is_elf(present[CUDA_LIBRARY]):
        problems += check_architectures(present[CUDA_LIBRARY], record["architectures"])
    return problems


def list_chosen(record: dict[str, Any]) -> set[str]:
    """Return the libraries that a backend needs from elsewhere because whoever built it asked for them."""
    return {"libnccl.so.2"} if (record.get("cuda") or {}).get("nccl") else set()


def check_file(path: Path, entry: dict[str, Any]) -> Iterator[str]:
    if path.is_symlink():
        yield "is a link; a wheel holds none"
    if path.stat().st_size != entry["bytes"]:
        yield f"has {path.stat().st_size:,} bytes, BUILD.json says {entry['bytes']:,}"
    elif f"sha256:{hash_file(path)}" != entry["sha256"]:
        yield "its sha256 is not the one in BUILD.json"
    if bool(path.stat().st_mode & 0o100) != entry["executable"]:
        what, sign = ("missing", "+") if entry["executable"] else ("set", "-")
        yield f"execute bit is {what}: chmod {sign}x {path}"


def check_elf(elf: ElfFile, *, name: str, libraries: set[str]) -> Iterator[str]:
    missing = set(elf.needed) - libraries - SYSTEM_LIBRARIES
    if missing:
        yield f"needs {', '.join(sorted(missing))}, which is neither here nor part of every Linux"
    path = elf.runpath or elf.rpath
    if path != "$ORIGIN" and set(elf.needed) & libraries:
        yield f"looks for its libraries in {path!r}, not in $ORIGIN"
    yield from check_making(elf, name=name)


def check_backend(elf: ElfFile, *, name: str, libraries: set[str]) -> Iterator[str]:
    """Check a CUDA backend, which lies one folder below the libraries that it shares with the rest."""
    missing = set(elf.needed) - libraries - SYSTEM_LIBRARIES - {"libggml-base.so", DRIVER}
    if missing:
        yield f"needs {', '.join(sorted(missing))}, which comes neither with the package nor with the driver"
    folders = (elf.runpath or elf.rpath or "").split(":")
    if folders[:2] != ["$ORIGIN", "$ORIGIN/.."]:
        yield f"looks for its libraries in {':'.join(folders)!r}, not beside itself and one folder up at first"
    if bad := [folder for folder in folders if not folder.startswith("$ORIGIN")]:
        yield f"looks for its libraries in {bad}, which are places of the building machine"
    yield from check_making(elf, name=name)


def check_making(elf: ElfFile, *, name: str) -> Iterator[str]:
    if elf.soname not in (None, name):
        yield f"calls itself {elf.soname}: one file for each library, under the name that is asked for"
    if not elf.is_stripped:
        yield "is not stripped"
    hardening = {
        "a position-independent executable": elf.is_pie or not elf.is_executable,
        "linked with RELRO": elf.has_relro,
        "linked with BIND_NOW": elf.binds_now,
        "free of an executable stack": not elf.has_executable_stack,
    }
    yield from (f"is not {what}" for what, is_so in hardening.items() if not is_so)


def check_architectures(library: Path, recorded: list[str]) -> list[str]:
    """Compare the GPU code in a library with what its record says."""
    # The code's own header has no suffix: sm_120a is there as sm_120.
    claimed = {architecture.rstrip("af") for architecture in recorded}
    present = {code.architecture for code in read_gpu_code(library)}
    problems = [f"{library.name}: no code for {name}, which BUILD.json has" for name in sorted(claimed - present)]
    return problems + [f"{library.name}: has code for {name}, not in BUILD.json" for name in sorted(present - claimed)]
