"""What the sdist holds, and that a wheel is built from it without a network."""

from __future__ import annotations

import fnmatch
import os
import subprocess
import sys
import tarfile
from pathlib import Path, PurePosixPath

import pytest

from tests.places import ROOT
from tools.binaries.fetch import hash_tree
from tools.binaries.lock import read_lock

MAX_SDIST_BYTES = 15_000_000
EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}
BUILD = "import sys; from tools.binaries import backend; print(getattr(backend, sys.argv[1])(*sys.argv[2:]))"


def call_backend(root: Path, *arguments: str, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-c", BUILD, *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **(env or {})},
    )
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    return folder / call_backend(ROOT, "build_sdist", str(folder), env=EPOCH)


@pytest.fixture(scope="module")
def unpacked_sdist(sdist: Path) -> Path:
    folder = sdist.parent / "unpacked"
    with tarfile.open(sdist) as tar:
        for member in tar.getmembers():
            assert member.isreg() or member.isdir()
            assert ".." not in PurePosixPath(member.name).parts
        tar.extractall(folder)  # noqa: S202
    (root,) = folder.iterdir()
    return root


def selected_by_manifest() -> set[str]:
    """Return what MANIFEST.in states, by the meaning that its four directives have in setuptools."""
    chosen: set[str] = set()
    for line in (ROOT / "MANIFEST.in").read_text(encoding="utf-8").splitlines():
        directive, _, rest = line.partition(" ")
        if directive == "include":
            chosen.add(rest)
        elif directive == "graft":
            chosen |= {path.relative_to(ROOT).as_posix() for path in (ROOT / rest).rglob("*") if path.is_file()}
        elif directive == "prune":
            chosen = {name for name in chosen if not name.startswith(rest + "/")}
        elif directive == "global-exclude":
            chosen = {
                name for name in chosen if not any(fnmatch.fnmatch("/" + name, f"*/{one}") for one in rest.split())
            }
        else:
            assert directive in {"#", ""}, f"this test does not know {directive!r}"
    return chosen


def test_the_sdist_is_what_manifest_in_states(sdist: Path) -> None:
    with tarfile.open(sdist) as tar:
        names = {
            PurePosixPath(name).relative_to(sdist.name.removesuffix(".tar.gz")).as_posix() for name in tar.getnames()
        }
    assert names - {"PKG-INFO"} == selected_by_manifest()


def test_nothing_that_git_ignores_is_in_the_sdist_but_the_vendored_source(sdist: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    with tarfile.open(sdist) as tar:
        names = {
            PurePosixPath(name).relative_to(sdist.name.removesuffix(".tar.gz")).as_posix() for name in tar.getnames()
        }
    done = subprocess.run(
        ["git", "check-ignore", "--stdin"],
        cwd=ROOT,
        input="\n".join(names),
        capture_output=True,
        text=True,
        check=False,
    )
    assert {name for name in done.stdout.splitlines() if not name.startswith("vendor/llama.cpp/")} == set()


def test_the_sdist_keeps_its_budget(sdist: Path) -> None:
    assert sdist.stat().st_size <= MAX_SDIST_BYTES


def test_the_sdist_holds_the_vendored_source_patched_and_the_patches(unpacked_sdist: Path) -> None:
    assert read_lock(unpacked_sdist / "vendor/llama.cpp.lock") == read_lock()
    assert hash_tree(unpacked_sdist / "vendor/llama.cpp") == read_lock().data["tree"]


def test_the_sdist_of_the_sdist_is_the_same_bytes(sdist: Path, unpacked_sdist: Path, tmp_path: Path) -> None:
    second = tmp_path / call_backend(unpacked_sdist, "build_sdist", str(tmp_path), env=EPOCH)
    assert sdist.read_bytes() == second.read_bytes()


def test_building_from_the_sdist_asks_for_nothing_that_fetches(unpacked_sdist: Path) -> None:
    needs = call_backend(unpacked_sdist, "get_requires_for_build_wheel")
    assert "pip" not in needs
    assert "setuptools" not in needs


def test_metadata_comes_out_of_the_sdist_without_an_index(unpacked_sdist: Path, tmp_path: Path) -> None:
    nothing = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    name = call_backend(unpacked_sdist, "prepare_metadata_for_build_wheel", str(tmp_path), env=nothing)
    assert "Name: llcuda\n" in (tmp_path / name / "METADATA").read_text(encoding="utf-8")
