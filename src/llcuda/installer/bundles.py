"""What bundles there are and which one is for this machine: an index, read, and a pure choice among its entries.

``python prepare_binaries.py pack`` writes the bundles and their ``index.json``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llcuda import settings
from llcuda.devices import choose_backend
from llcuda.errors import InstallError
from llcuda.native import Backend
from llcuda.store import parse_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llcuda.devices import BackendChoice, Devices
    from llcuda.native import BuildInfo

INDEX_NAME = "index.json"
MAX_INDEX_BYTES = 1 << 20
MAX_BYTES = 4 << 30
"""Of a bundle, packed or unpacked; every architecture of CUDA 12.9, uncompressed, comes to about 1 GB."""
_SCHEMA = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}\.tar\.gz")
_PROFILE = re.compile(r"[a-z][a-z0-9]{0,19}")
_WHOLE = "all"
"""The executables for every x86-64 processor."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """One bundle, as its index describes it."""

    name: str
    """Of the file: ``llcuda-<version>-<profile>-linux-x86_64.tar.gz``."""
    version: str
    """Of llcuda."""
    sha256: str
    """``sha256:<64 hex>``"""
    bytes: int
    unpacked_bytes: int
    llama_cpp_tag: str
    profile: str
    """``cuda12`` or ``cuda13`` for a CUDA backend; ``native`` or ``all`` for the executables."""
    toolkit: str | None
    architectures: tuple[str, ...]
    driver_floor: str | None

    @property
    def is_backend(self) -> bool:
        """Whether it is a CUDA backend, rather than the executables."""
        return self.toolkit is not None

    @property
    def folder_name(self) -> str:
        """The name of the folder that it is installed into."""
        return f"{self.profile}-{self.sha256.partition(':')[2][:16]}"


def parse_index(data: bytes, *, source: str) -> tuple[Bundle, ...]:
    """Return the bundles that the text of an index lists. Raises InstallError, which names ``source``."""
    try:
        index = json.loads(data)
        if index["schema"] != _SCHEMA:
            raise ValueError(f"schema {index['schema']!r} is not {_SCHEMA}")  # noqa: TRY301 - damage like any other
        return tuple(_parse_bundle(entry) for entry in index["bundles"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InstallError(source, f"its index cannot be used ({error!r})") from error


def _parse_bundle(entry: dict[str, Any]) -> Bundle:
    toolkit, floor = entry["toolkit"], entry["driver_floor"]
    return Bundle(
        name=_match(_NAME, entry["name"]),
        version=str(entry["version"]),
        sha256=parse_digest(entry["sha256"]),
        bytes=_check_size(entry["bytes"]),
        unpacked_bytes=_check_size(entry["unpacked_bytes"]),
        llama_cpp_tag=str(entry["llama_cpp"]["tag"]),
        profile=_match(_PROFILE, entry["profile"]),
        toolkit=None if toolkit is None else str(toolkit),
        architectures=tuple(map(str, entry["architectures"])),
        driver_floor=None if floor is None else str(floor),
    )


def _match(pattern: re.Pattern[str], text: str) -> str:
    if not pattern.fullmatch(text):
        raise ValueError(f"{text!r} is not a name for a bundle")
    return text


def _check_size(count: int) -> int:
    if type(count) is not int or not 0 < count <= MAX_BYTES:
        raise ValueError(f"{count!r} is not a size in bytes up to {MAX_BYTES}")
    return count


def describe_bundle(info: BuildInfo, *, path: Path, sha256: str) -> Bundle:
    """Return the bundle in the file ``path`` that no index lists, from what its BUILD.json says.

    Raises InstallError for a profile that is none.
    """
    if not _PROFILE.fullmatch(info.profile):
        raise InstallError(str(path), f"{info.profile!r} is not a profile of binaries")
    return Bundle(
        name=path.name,
        version=settings.package_version(),
        sha256=sha256,
        bytes=path.stat().st_size,
        unpacked_bytes=sum(record.bytes for record in info.files.values()),
        llama_cpp_tag=info.llama_cpp_tag,
        profile=info.profile,
        toolkit=info.toolkit,
        architectures=info.architectures,
        driver_floor=info.cuda.driver_floor if info.cuda else None,
    )


def choose_bundle(
    bundles: Sequence[Bundle], devices: Devices, *, tag: str | None, profile: str | None = None
) -> tuple[Bundle, BackendChoice | None]:
    """Return the bundle for a machine with these ``devices``, and for a backend the choice that led to it.

    ``tag`` is the llama.cpp build of the executables that are there; None if there are none, and then the bundle is
    that of the executables. ``profile`` asks for one by name. Raises the DeviceError that says why none fits the
    GPUs, and InstallError if there is none for this version, or for this build.
    """
    version = settings.package_version()
    own = [bundle for bundle in bundles if bundle.version == version and tag in {None, bundle.llama_cpp_tag}]
    wanted = profile or (None if tag else _WHOLE)
    if wanted:
        own = [bundle for bundle in own if bundle.profile == wanted]
    elif tag:
        own = [bundle for bundle in own if bundle.is_backend]
    if not own:
        raise _nothing_for(bundles, tag=tag, wanted=wanted)
    if not own[0].is_backend:
        return own[0], None
    choice = choose_backend(devices, [_to_backend(bundle) for bundle in own], device="cuda")
    choice.raise_for_device()
    return next(bundle for bundle in own if _to_backend(bundle) == choice.backend), choice


def _nothing_for(bundles: Sequence[Bundle], *, tag: str | None, wanted: str | None) -> InstallError:
    there = ", ".join(f"{one.profile} for llcuda {one.version} and llama.cpp {one.llama_cpp_tag}" for one in bundles)
    needed = f"llcuda {settings.package_version()}{f' and llama.cpp {tag}' if tag else ''}"
    return InstallError(
        wanted or "a CUDA backend",
        f"the source has none for {needed}. It has {there or 'nothing'}",
        hint="Update llcuda (pip install -U llcuda), or name another source with --from.",
    )


def _to_backend(bundle: Bundle) -> Backend:
    """Return what the choice of a backend asks of it; nothing is loaded from it."""
    return Backend(
        name=bundle.profile,
        library=Path(bundle.name),
        toolkit=bundle.toolkit or "",
        architectures=bundle.architectures,
        driver_floor=bundle.driver_floor or "0",
        cublas="",
    )
