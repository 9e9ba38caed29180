"""Where the bundled executables are.

``find_executable`` looks in this order, and its error lists every place: LLAMA_SERVER_PATH (llama-server only, trusted
as given), LLAMA_BIN_DIR, the package, LLAMA_CPP_DIR/bin, and what BinaryInstaller has installed. PATH is
not searched: another program's llama-server is not the one that was tested with this package.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NoReturn

from llcuda import settings
from llcuda.errors import BinaryNotFoundError, BinaryUnusableError
from llcuda.native.build_info import binaries_dir, package_dir
from llcuda.native.installed import get_installed_executables, installed_dir
from llcuda.native.libraries import child_environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path


def find_executable(name: str = "llama-server") -> Path:
    """Return the absolute path of one of llama.cpp's executables.

    Raises BinaryNotFoundError with every place that was looked at, and BinaryUnusableError for one that may not be run.
    LLAMA_SERVER_PATH is an order: if it names nothing, no other place is tried.
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
    """Return the path of llcuda-guard, which comes from the package, or else from what was installed.

    Raises BinaryNotFoundError or BinaryUnusableError.
    """
    path = binaries_dir() / "llcuda-guard"
    if not path.exists():
        raise BinaryNotFoundError("llcuda-guard", searched=[f"the package: {path}"])
    return _require_runnable(path.absolute())


def exec_tool(name: str, arguments: Sequence[str], *, environment: Mapping[str, str] | None = None) -> NoReturn:
    """Become the executable ``name``: this process is replaced, so signals, streams and exit status are the tool's.

    Without an ``environment`` it gets that of :func:`child_environment`. Raises what :func:`find_executable` raises.
    """
    path = find_executable(name)
    os.execve(  # noqa: S606 - the point of this function
        path, [name, *arguments], environment if environment is not None else child_environment(path)
    )


def _places(name: str) -> Iterator[tuple[str, Path]]:
    exact = settings.get_path("LLAMA_SERVER_PATH")
    if exact and name == "llama-server":
        yield "LLAMA_SERVER_PATH", exact
    folder = settings.get_path("LLAMA_BIN_DIR")
    if folder:
        yield "LLAMA_BIN_DIR", folder / name
    yield "the package", package_dir() / name
    root = settings.get_path("LLAMA_CPP_DIR")
    if root:
        yield "LLAMA_CPP_DIR", root / "bin" / name
    yield "installed by llcuda", (get_installed_executables() or installed_dir()) / name


def _require_runnable(path: Path) -> Path:
    if not path.is_file():
        raise BinaryUnusableError(path, "it is not a file", hint="Give the path of the executable itself.")
    if not os.access(path, os.X_OK):
        raise BinaryUnusableError(path, "it has no execute permission", hint=f"Run: chmod +x '{path}'")
    return path
