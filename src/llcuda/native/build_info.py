"""What a folder of binaries says about itself in BUILD.json, and whether it is whole."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llcuda.errors import BinaryUnusableError
from llcuda.native.installed import get_installed_executables

BUILD_FILE = "BUILD.json"
_SCHEMA = 1
_REINSTALL = "Reinstall the package: pip install --force-reinstall --no-deps llcuda"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What BUILD.json says about one file."""

    sha256: str
    """``sha256:<64 hex>``."""
    bytes: int
    executable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaInfo:
    """What BUILD.json says about a CUDA backend."""

    driver_floor: str
    """The oldest driver that runs the machine code of this build, such as ``550.54.14``."""
    compression: str = "none"
    """nvcc's compression of the machine code: ``size``, or ``none``."""
    flash_attention: bool = True
    cuda_graphs: bool = True
    runtime: str = "static"
    """How the CUDA runtime is linked."""
    cublas: str
    """The name of the cuBLAS library that is opened at the first call which needs it: ``libcublas.so.12``."""
    nccl: bool = False
    """Whether it was linked with NCCL, and so needs libnccl.so.2 to be loaded; a record that does not say was not."""


@dataclass(frozen=True, slots=True)
class BuildInfo:
    """What a folder of binaries says about itself in BUILD.json, as far as it is read here."""

    llama_cpp_tag: str
    profile: str
    compiler: str
    cpu_variants: tuple[str, ...]
    toolkit: str | None
    architectures: tuple[str, ...]
    """As NVIDIA names them: ``sm_75`` is machine code, ``compute_90`` is PTX."""
    files: dict[str, FileRecord]
    cuda: CudaInfo | None = None
    llama_cpp_patches: tuple[str, ...] = ()
    """The files of ``vendor/patches`` that llama.cpp's source was changed by."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with the binaries, and what to do about it."""

    path: Path
    what: str
    remedy: str


def binaries_dir() -> Path:
    """Return the folder of the executables, which need not exist: the package's, or else those that were installed."""
    package = package_dir()
    return package if package.is_dir() else (get_installed_executables() or package)


def package_dir() -> Path:
    """Return the folder of the executables that the package carries, which need not exist.

    An editable install spreads the package over two folders, the sources and what was built; both are looked at.
    """
    roots = [Path(root) for root in sys.modules["llcuda"].__path__]
    folders = [root / "binaries" for root in roots]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def read_build_info(directory: Path, *, remedy: str = "") -> BuildInfo:
    """Return what ``directory``'s BUILD.json says.

    Raises BinaryUnusableError, with the ``remedy``, if it is missing, damaged or of an unknown schema.
    """
    path = directory / BUILD_FILE
    try:
        return _parse_build_info(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise BinaryUnusableError(path, "the file is missing", hint=remedy or _REINSTALL) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BinaryUnusableError(path, f"the file is damaged ({error!r})", hint=remedy or _REINSTALL) from error


def check_binaries(directory: Path | None = None, *, digests: bool = False) -> tuple[Problem, ...]:
    """Compare a folder of binaries with its BUILD.json: every file there, its size, its execute bit.

    ``digests`` reads every file and compares its SHA-256 too. An empty result means that nothing is wrong.
    """
    folder = directory or binaries_dir()
    try:
        info = read_build_info(folder)
    except BinaryUnusableError as error:
        return (Problem(Path(error.path), error.reason, error.hint),)
    found = (_check_file(folder / name, record, digests=digests) for name, record in info.files.items())
    return tuple(problem for problem in found if problem)


def _parse_build_info(data: dict[str, Any]) -> BuildInfo:
    if data["schema"] != _SCHEMA:
        raise ValueError(f"schema {data['schema']!r} is not {_SCHEMA}")
    upstream, cuda = data["llama_cpp"], data.get("cuda")
    return BuildInfo(
        llama_cpp_tag=upstream["tag"],
        profile=data["profile"],
        compiler=data["compiler"],
        cpu_variants=tuple(data["cpu_variants"]),
        toolkit=data["toolkit"],
        architectures=tuple(data["architectures"]),
        files={name: FileRecord(**record) for name, record in data["files"].items()},
        cuda=CudaInfo(**cuda) if cuda else None,
        llama_cpp_patches=tuple(upstream.get("patches", ())),
    )


def _check_file(path: Path, record: FileRecord, *, digests: bool) -> Problem | None:
    try:
        status = path.stat()
    except OSError as error:
        return Problem(path, f"the file is missing ({error.strerror})", _REINSTALL)
    if status.st_size != record.bytes:
        return Problem(path, f"{status.st_size} bytes, expected {record.bytes}", _REINSTALL)
    if record.executable and not os.access(path, os.X_OK):
        return Problem(path, "it has no execute permission", f"Run: chmod +x '{path}'")
    if digests and (actual := _hash(path)) != record.sha256:
        return Problem(path, f"its digest is {actual}, expected {record.sha256}", _REINSTALL)
    return None


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"
