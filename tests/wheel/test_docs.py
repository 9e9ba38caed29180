"""Every command and every snippet that the documentation shows is run as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(python|sh)( [^\n]*)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PAGES = (_ROOT / "README.md", *sorted((_ROOT / "docs").glob("*.md")))
_TIMEOUT = 300

# Commands that other tests run at length, or that need what a test machine may not have.
_ELSEWHERE = ("pip install", "pip wheel", "nox", "git clone", "prepare_binaries", "tools.demo_model", "benchmarks")


@dataclass(frozen=True)
class Snippet:
    """One fenced block: where it stands and what it says."""

    page: str
    line: int
    language: str
    text: str


def read_snippets(page: Path) -> list[Snippet]:
    text = page.read_text(encoding="utf-8")
    return [
        Snippet(page.name, text[: match.start()].count("\n") + 1, match[1], match[3])
        for match in _FENCE.finditer(text)
        if "no-run" not in (match[2] or "")
    ]


def name(snippet: Snippet) -> str:
    return f"{snippet.page}:{snippet.line}"


SNIPPETS = [snippet for page in _PAGES for snippet in read_snippets(page)]


def run(command: list[str], directory: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "LLCUDA_HOME": str(directory / "llcuda"),
        "HF_HOME": str(directory / "hub"),
    }
    result = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=_TIMEOUT, check=False
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"


@pytest.mark.parametrize("snippet", [s for s in SNIPPETS if s.language == "python"], ids=name)
def test_a_python_snippet_runs(snippet: Snippet, tmp_path: Path) -> None:
    run([sys.executable, "-W", "error", "-c", snippet.text], tmp_path)


def runnable_part(line: str) -> str:
    """Return the line without its ``pip install … &&``, and nothing where it is run elsewhere."""
    command = re.sub(r"^pip install \S+ && ", "", line)
    return "" if any(words in command for words in _ELSEWHERE) else command


@pytest.mark.parametrize("snippet", [s for s in SNIPPETS if s.language == "sh"], ids=name)
def test_a_command_runs(snippet: Snippet, tmp_path: Path) -> None:
    run(["bash", "-euc", "\n".join(map(runnable_part, snippet.text.splitlines()))], tmp_path)


@pytest.mark.parametrize("example", sorted((_ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_an_example_runs(example: Path, tmp_path: Path) -> None:
    run([sys.executable, "-W", "error", str(example)], tmp_path)


def test_every_page_is_linked_from_the_readme_and_every_link_leads_somewhere() -> None:
    readme = (_ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"docs/{page.name}" in readme for page in _PAGES if page.parent.name == "docs")
    for page in _PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
