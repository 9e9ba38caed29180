"""The build backend: scikit-build-core, with llama.cpp's source fetched first when a clean clone does not have it yet.

It is a backend of our own because licences in the metadata and files in the sdist come from that source, so both are
needed before CMake runs. An sdist carries the source: building from it asks for no more than scikit-build-core does.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from scikit_build_core import build as backend

from tools.binaries.errors import PreparationError
from tools.binaries.fetch import fetch, tree_is_right
from tools.binaries.lock import ROOT, read_lock
from tools.binaries.protocol import compile_protocol

if TYPE_CHECKING:
    from collections.abc import Callable

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


def with_fetch_needs(hook: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """Add what fetching needs to what scikit-build-core requires."""

    @functools.wraps(hook)
    def ask(config_settings: dict[str, Any] | None = None) -> list[str]:
        return [*hook(config_settings), *fetch_needs()]

    return ask


def prepared(hook: Callable[..., str]) -> Callable[..., str]:
    """Have the sources before scikit-build-core is asked."""

    @functools.wraps(hook)
    def make(*arguments: Any, **named: Any) -> str:
        prepare()
        return hook(*arguments, **named)

    return make


get_requires_for_build_wheel = with_fetch_needs(backend.get_requires_for_build_wheel)
get_requires_for_build_sdist = with_fetch_needs(backend.get_requires_for_build_sdist)
get_requires_for_build_editable = with_fetch_needs(backend.get_requires_for_build_editable)
prepare_metadata_for_build_wheel = prepared(backend.prepare_metadata_for_build_wheel)
prepare_metadata_for_build_editable = prepared(backend.prepare_metadata_for_build_editable)
build_wheel = prepared(backend.build_wheel)
build_editable = prepared(backend.build_editable)
build_sdist = prepared(backend.build_sdist)
