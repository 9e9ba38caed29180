"""The CUDA backends that the package carries or that were installed: each a folder with one library and BUILD.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from llcuda.errors import BinaryUnusableError
from llcuda.native.build_info import BUILD_FILE, CudaInfo, binaries_dir, check_binaries, read_build_info
from llcuda.native.installed import read_installed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from llcuda.native.build_info import BuildInfo

LIBRARY = "libggml-cuda.so"
INSTALL_AGAIN = "Install it again (llcuda gpu install --force), or go back (llcuda gpu rollback)."


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend(CudaInfo):
    """One CUDA backend, as its BUILD.json describes it."""

    name: str
    """``cuda12`` or ``cuda13``, after the toolkit that compiled it."""
    library: Path
    toolkit: str
    """The toolkit's version, such as ``12.9.86``."""
    architectures: tuple[str, ...]
    """``sm_75`` is machine code for compute capability 7.5; ``compute_90`` is PTX, which the driver compiles."""


def find_backends(directory: Path | None = None) -> tuple[Backend, ...]:
    """Return the backends that were installed and those of the package (or of ``directory`` alone), newest first.

    Of two with the same toolkit, the one that was installed comes first. One that was installed for another build of
    llama.cpp is left out. Raises BinaryUnusableError for one that is not whole, and for one of the package's that was
    made for another build.
    """
    folder = directory or binaries_dir()
    found = [read_backend(path.parent, folder) for path in sorted(folder.glob(f"cuda*/{BUILD_FILE}"))]
    if directory is None:
        found = [*_find_installed(folder), *found]
    return tuple(sorted(found, key=lambda backend: _version(backend.toolkit), reverse=True))


def _find_installed(owner: Path) -> Iterator[Backend]:
    bundles = [bundle for bundle in read_installed() if bundle.is_backend]
    tag = read_build_info(owner).llama_cpp_tag if bundles else None
    for bundle in bundles:
        if read_build_info(bundle.folder, remedy=INSTALL_AGAIN).llama_cpp_tag == tag:
            yield read_backend(bundle.folder, owner, remedy=INSTALL_AGAIN)


def read_backend(folder: Path, owner: Path, *, remedy: str = "") -> Backend:
    """Return the backend in ``folder``, which goes with the executables of ``owner``.

    Raises BinaryUnusableError, with the ``remedy`` if one is given, for one that is not whole or not theirs.
    """
    info = read_build_info(folder, remedy=remedy)
    for problem in check_binaries(folder):
        raise BinaryUnusableError(problem.path, problem.what, hint=remedy or problem.remedy)
    _require_same_build(folder, info, read_build_info(owner))
    if info.toolkit is None or info.cuda is None:
        raise BinaryUnusableError(folder / BUILD_FILE, "it does not describe a CUDA backend", hint=remedy)
    return Backend(
        name=info.profile,
        library=(folder / LIBRARY).absolute(),
        toolkit=info.toolkit,
        architectures=info.architectures,
        **asdict(info.cuda),
    )


def _require_same_build(folder: Path, info: BuildInfo, owner: BuildInfo) -> None:
    if info.llama_cpp_tag != owner.llama_cpp_tag:
        reason = f"it was built for llama.cpp {info.llama_cpp_tag}, and the executables are {owner.llama_cpp_tag}"
        raise BinaryUnusableError(folder, reason, hint="Install the backend and the package of one version.")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())
