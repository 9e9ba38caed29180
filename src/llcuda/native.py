"""Where the bundled executables are, whether they are whole, and the environment that they run in.

``find_executable`` looks in this order, and its error lists every place: LLAMA_SERVER_PATH (llama-server only, trusted
as given), LLAMA_BIN_DIR, the package, LLAMA_CPP_DIR/bin, and what was installed into ``settings.home_dir()``. PATH is
not searched: another program's llama-server is not the one that was tested with this package.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from llcuda import settings
from llcuda.errors import BinaryNotFoundError, BinaryUnusableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = [
    "BuildInfo",
    "FileRecord",
    "Problem",
    "binaries_dir",
    "check_binaries",
    "child_environment",
    "exec_tool",
    "find_executable",
    "find_guard",
    "read_build_info",
]

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


@dataclass(frozen=True, slots=True)
class BuildInfo:
    """What a folder of binaries says about itself in BUILD.json."""

    llama_cpp_tag: str
    llama_cpp_version: str
    llama_cpp_commit: str
    profile: str
    compiler: str
    flags: dict[str, Any]
    cpu_variants: tuple[str, ...]
    cpu_features: tuple[str, ...]
    toolkit: str | None
    architectures: tuple[str, ...]
    date: str
    files: dict[str, FileRecord]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with the binaries, and what to do about it."""

    path: Path
    what: str
    remedy: str


def binaries_dir() -> Path:
    """Return the folder of the bundled executables, which need not exist.

    An editable install spreads the package over two folders, the sources and what was built; both are looked at.
    """
    roots = [Path(root) for root in sys.modules["llcuda"].__path__]
    folders = [root / "binaries" for root in roots]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def find_executable(name: str = "llama-server") -> Path:
    """Return the absolute path of one of llama.cpp's executables.

    Raises BinaryNotFoundError with every place that was looked at, and BinaryUnusableError for one that may not be run.
    LLAMA_SERVER_PATH is an order: where it names nothing, no other place is tried.
    """
    searched: list[str] = []
    for place, path in _places(name):
        searched.append(f"{place}: {path}")
        if path.exists():
            return _require_runnable(path.absolute())
        if place == "LLAMA_SERVER_PATH":
            break
    raise BinaryNotFoundError(name, searched=searched)


def find_guard() -> Path:
    """Return the path of llcuda-guard, which comes from the package only.

    Raises BinaryNotFoundError or BinaryUnusableError.
    """
    path = binaries_dir() / "llcuda-guard"
    if not path.exists():
        raise BinaryNotFoundError("llcuda-guard", searched=[f"the package: {path}"])
    return _require_runnable(path.absolute())


def child_environment(executable: Path, *, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment with the library path that ``executable`` needs, and with ``extra``.

    The executable's own folder comes first and the user's entries last. Folders of CUDA's compatibility package are
    left out: its libcuda.so takes the place of the driver's and fails with error 803 on a newer driver.
    """
    own = [str(executable.parent)]
    users = [entry for entry in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if entry]
    kept = [entry for entry in users if not _is_cuda_compat(entry)]
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(dict.fromkeys(own + kept)), **(extra or {})}


def read_build_info(directory: Path) -> BuildInfo:
    """Return what ``directory``'s BUILD.json says.

    Raises BinaryUnusableError where it is missing, damaged or of an unknown schema.
    """
    import json  # noqa: PLC0415 - kept out of `import llcuda`

    path = directory / BUILD_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return _parse_build_info(data)
    except FileNotFoundError:
        raise BinaryUnusableError(path, "the file is missing", hint=_REINSTALL) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BinaryUnusableError(path, f"the file is damaged ({error!r})", hint=_REINSTALL) from error


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


def exec_tool(name: str, arguments: Sequence[str]) -> NoReturn:
    """Become the executable ``name``: this process is replaced, so signals, streams and exit status are the tool's.

    Raises what :func:`find_executable` raises.
    """
    path = find_executable(name)
    os.execve(path, [name, *arguments], child_environment(path))  # noqa: S606 - the point of this function


def _places(name: str) -> Iterator[tuple[str, Path]]:
    exact = settings.get_path("LLAMA_SERVER_PATH")
    if exact and name == "llama-server":
        yield "LLAMA_SERVER_PATH", exact
    folder = settings.get_path("LLAMA_BIN_DIR")
    if folder:
        yield "LLAMA_BIN_DIR", folder / name
    yield "the package", binaries_dir() / name
    root = settings.get_path("LLAMA_CPP_DIR")
    if root:
        yield "LLAMA_CPP_DIR", root / "bin" / name
    yield "installed by llcuda", settings.home_dir() / "binaries" / name


def _require_runnable(path: Path) -> Path:
    if not path.is_file():
        raise BinaryUnusableError(path, "it is not a file", hint="Give the path of the executable itself.")
    if not os.access(path, os.X_OK):
        raise BinaryUnusableError(path, "it has no execute permission", hint=f"Run: chmod +x '{path}'")
    return path


def _is_cuda_compat(entry: str) -> bool:
    parts = Path(entry).parts
    return any(parts[at].startswith("cuda") and parts[at + 1] == "compat" for at in range(len(parts) - 1))


def _parse_build_info(data: dict[str, Any]) -> BuildInfo:
    if data["schema"] != _SCHEMA:
        raise ValueError(f"schema {data['schema']!r} is not {_SCHEMA}")
    upstream = data["llama_cpp"]
    return BuildInfo(
        llama_cpp_tag=upstream["tag"],
        llama_cpp_version=upstream["version"],
        llama_cpp_commit=upstream.get("commit") or upstream["tag"],
        profile=data["profile"],
        compiler=data["compiler"],
        flags=dict(data["flags"]),
        cpu_variants=tuple(data["cpu_variants"]),
        cpu_features=tuple(data.get("cpu_features", ())),
        toolkit=data["toolkit"],
        architectures=tuple(data["architectures"]),
        date=data["date"],
        files={name: FileRecord(**record) for name, record in data["files"].items()},
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
    import hashlib  # noqa: PLC0415 - kept out of `import llcuda`

    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"
