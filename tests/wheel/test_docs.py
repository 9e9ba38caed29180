"""Every command and every snippet that the documentation shows is run as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.places import ROOT
from tests.wheel.snippets import PAGES, Snippet, find_alone, name, run, user_environment
from tools.terminal_picture import COMMANDS, PICTURE, read_lines
from tools.terminal_picture import run as run_commands

_ALONE = find_alone()


@pytest.mark.parametrize("snippet", [one for one in _ALONE if one.language == "python"], ids=name)
def test_a_python_snippet_runs(snippet: Snippet, tmp_path: Path) -> None:
    run(snippet, tmp_path)


@pytest.mark.parametrize("snippet", [one for one in _ALONE if one.language == "sh"], ids=name)
def test_a_command_runs(snippet: Snippet, tmp_path: Path) -> None:
    run(snippet, tmp_path)


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_an_example_runs(example: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(example)]
    subprocess.run(command, cwd=tmp_path, env=user_environment(tmp_path), timeout=300, check=True)


def test_the_picture_shows_what_its_commands_print(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those before the one that serves are run: that one takes the port of whoever serves here."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    shown, ran = (
        [line for line in lines if not line.startswith("Using ")]  # which GPU, or none
        for lines in (read_lines(PICTURE.read_text(encoding="utf-8")), run_commands(COMMANDS[:3]))
    )
    assert shown[: len(ran)] == ran
    assert {f"$ {command}" for command in COMMANDS} <= set(shown)


def test_every_page_is_linked_from_the_readme_and_every_link_leads_somewhere() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"docs/{page.name}" in readme for page in PAGES if page.parent.name == "docs")
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
