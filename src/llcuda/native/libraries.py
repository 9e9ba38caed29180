"""Where a child finds its libraries: the order of the folders in its LD_LIBRARY_PATH.

A CUDA backend needs the driver's libcuda.so.1, which the system knows, at times cuBLAS, and NCCL if it was built
with that. They are looked for in this order: beside the backend, the ``nvidia-*`` wheels of this environment, torch's
copies, CUDA_HOME, the system, and last what the user has set.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llcuda import settings
from llcuda.native.build_info import binaries_dir

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from llcuda.native.backends import Backend

# Where the driver's own library is on WSL, Colab and GKE, whose dynamic loaders do not always know.
_DRIVER_FOLDERS = (Path("/usr/lib/wsl/lib"), Path("/usr/lib64-nvidia"), Path("/usr/local/nvidia/lib64"))
_DRIVER = "libcuda.so.1"
_NCCL = "libnccl.so.2"
_MAJORS = ("13", "12")
_SYSTEM_FOLDERS = (Path("/usr/lib/x86_64-linux-gnu"), Path("/usr/lib64"), Path("/usr/local/lib"))


def child_environment(
    executable: Path, *, backend: Backend | None = None, extra: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return this process's environment with the library path that ``executable`` needs, and with ``extra``.

    The executable's own folder comes first, then those of the ``backend``, and the user's entries last. Folders of
    CUDA's compatibility package are left out: its libcuda.so takes the place of the driver's and fails with error 803
    on a newer driver. Without a backend the package's own executables load none, whatever GGML_BACKEND_PATH says in
    this process; another llama-server keeps what it says.
    """
    own = [executable.parent, *(library_folders(backend) if backend else ())]
    kept = [entry for entry in _users_entries() if not _is_cuda_compat(entry)]
    environment = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(dict.fromkeys([*map(str, own), *kept]))}
    if executable.parent == binaries_dir().absolute():
        environment.pop("GGML_BACKEND_PATH", None)
    if backend:
        environment["GGML_BACKEND_PATH"] = str(backend.library)
    return {**environment, **(extra or {})}


def library_folders(backend: Backend) -> tuple[Path, ...]:
    """Return the folders that exist of those where the backend's libraries are looked for, in their order."""
    major = backend.toolkit.partition(".")[0]
    names = (backend.cublas, _NCCL) if backend.nccl else (backend.cublas,)
    found = [backend.library.parent, *(folder for folder in _places(major) if _holds(folder, *names))]
    found += [folder for folder in _DRIVER_FOLDERS if _holds(folder, _DRIVER)]
    return tuple(dict.fromkeys(found))


def find_nccl() -> Path | None:
    """Return NVIDIA's library for several GPUs, None if there is none; only a backend built with it uses it."""
    places = [folder for major in _MAJORS for folder in _places(major)]
    places += [*_SYSTEM_FOLDERS, *map(Path, _users_entries())]
    return next((folder / _NCCL for folder in places if _holds(folder, _NCCL)), None)


def _users_entries() -> list[str]:
    return [entry for entry in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if entry]


def _places(major: str) -> Iterator[Path]:
    for root in _site_folders():
        # cuBLAS 12 comes in a folder of its own, 13 in one that all of CUDA 13 shares.
        yield root / "nvidia" / "cublas" / "lib"
        yield root / "nvidia" / f"cu{major}" / "lib"
        yield root / "nvidia" / "nccl" / "lib"
    for root in _site_folders():
        yield root / "torch" / "lib"
    home = settings.get_path("CUDA_HOME")
    for root in (home,) if home else ():
        yield from (root / "lib64", root / "lib", root / "targets" / "x86_64-linux" / "lib")
    yield from (Path(f"/usr/local/cuda-{major}/lib64"), Path("/usr/local/cuda/lib64"))


def _site_folders() -> list[Path]:
    """Return the folders that modules are imported from: the package's own first, then this environment's."""
    own = [Path(root).parent for root in sys.modules["llcuda"].__path__]
    return list(dict.fromkeys([*own, *(Path(entry) for entry in sys.path if entry)]))


def _holds(folder: Path, *names: str) -> bool:
    return any((folder / name).exists() for name in names)


def _is_cuda_compat(entry: str) -> bool:
    parts = Path(entry).parts
    return any(parts[at].startswith("cuda") and parts[at + 1] == "compat" for at in range(len(parts) - 1))
