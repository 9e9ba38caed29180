"""The build backend: scikit-build-core, with llama.cpp's source fetched first when a clean clone does not have it yet.

It is a backend of our own because licences in the metadata and files in the sdist come from that source, so both are
needed before CMake runs. An sdist carries the source: building from it asks for no more than scikit-build-core does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any, TypeAlias

from scikit_build_core import build as backend

from tools.binaries.errors import PreparationError
from tools.binaries.fetch import fetch, tree_is_right
from tools.binaries.lock import ROOT, read_lock
from tools.binaries.protocol import compile_protocol

Settings: TypeAlias = "dict[str, Any] | None"

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

# What `pip download` of the source package needs to be importable, beside pip itself.
FETCH_NEEDS = ("pip", "setuptools>=77", "setuptools-scm>=8", "wheel")


def fetch_needs() -> list[str]:
    return [] if tree_is_right(read_lock()) else list(FETCH_NEEDS)


def prepare() -> None:
    os.environ.setdefault("SOURCE_DATE_EPOCH", str(source_time()))
    try:
        fetch(read_lock())
        compile_protocol()
    except PreparationError as error:
        sys.exit(f"llcuda: {error}")


def source_time() -> int:
    """Return the last commit's time, or now where there is none; scikit-build-core would take a day in 2022."""
    if (ROOT / ".git").exists():
        try:
            done = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, check=True)
            return int(done.stdout)
        except (OSError, subprocess.CalledProcessError, ValueError):
            pass  # no git, no commit yet, or a repository of somebody else that git refuses to read
    return int(time.time())


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    return [*backend.get_requires_for_build_wheel(config_settings), *fetch_needs()]


def get_requires_for_build_sdist(config_settings: Settings = None) -> list[str]:
    return [*backend.get_requires_for_build_sdist(config_settings), *fetch_needs()]


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:
    return [*backend.get_requires_for_build_editable(config_settings), *fetch_needs()]


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: Settings = None) -> str:
    prepare()
    return backend.prepare_metadata_for_build_wheel(metadata_directory, config_settings)


def prepare_metadata_for_build_editable(metadata_directory: str, config_settings: Settings = None) -> str:
    prepare()
    return backend.prepare_metadata_for_build_editable(metadata_directory, config_settings)


def build_wheel(wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None) -> str:
    prepare()
    return backend.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    prepare()
    return backend.build_editable(wheel_directory, config_settings, metadata_directory)


def build_sdist(sdist_directory: str, config_settings: Settings = None) -> str:
    prepare()
    return backend.build_sdist(sdist_directory, config_settings)
