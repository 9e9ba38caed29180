"""The fenced blocks of the documentation, and how they are run.

A word after the language says what a block is: ``no-run`` cannot be run by a test, ``toml NAME`` is the file of that
name, and ``sh serve`` starts a gateway, with its last line, for every block of the page after it, up to the next such.
A block that names ``localhost:5000`` is given docker's registry, at another port.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from tests.places import ROOT
from tests.process.storage.servers import find_port, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "PAGES",
    "Served",
    "Snippet",
    "find_alone",
    "find_served",
    "name",
    "run",
    "runnable_text",
    "user_environment",
]

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_FENCE = re.compile(r"^```(python|sh|toml)( [^\n]*)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TIMEOUT = 300
_REGISTRY = "localhost:5000"

# Commands that other tests run at length, or that need what a test machine may not have.
_ELSEWHERE = ("pip install", "pip wheel", "nox", "git clone", "prepare_binaries", "tools.demo_model", "benchmarks")


@dataclass(frozen=True, slots=True)
class Snippet:
    """One fenced block: where it stands, what it is and what it says."""

    page: str
    line: int
    language: str
    word: str
    text: str


@dataclass(frozen=True, slots=True)
class Served:
    """A gateway that a page starts, the files that it may read, and what is run while it does."""

    start: Snippet
    files: tuple[Snippet, ...]
    snippets: tuple[Snippet, ...]


def name(snippet: Snippet) -> str:
    return f"{snippet.page}:{snippet.line}"


def read_snippets(page: Path) -> list[Snippet]:
    text = page.read_text(encoding="utf-8")
    return [
        Snippet(page.name, text[: match.start()].count("\n") + 1, match[1], (match[2] or "").strip(), match[3])
        for match in _FENCE.finditer(text)
        if "no-run" not in (match[2] or "")
    ]


def find_alone() -> list[Snippet]:
    """Return the blocks that need no gateway."""
    found = []
    for page in PAGES:
        snippets = read_snippets(page)
        first = next((at for at, one in enumerate(snippets) if one.word == "serve"), len(snippets))
        found += [one for one in snippets[:first] if one.language != "toml"]
    return found


def find_served() -> list[Served]:
    """Return the gateways that the pages start."""
    found = []
    for page in PAGES:
        snippets = read_snippets(page)
        starts = [at for at, one in enumerate(snippets) if one.word == "serve"]
        for start, end in pairwise([*starts, len(snippets)]):
            files = [one for one in snippets[:start] if one.language == "toml" and one.word]
            after = [one for one in snippets[start + 1 : end] if one.language != "toml"]
            found.append(Served(snippets[start], tuple(files), tuple(after)))
    return found


def runnable_text(text: str) -> str:
    """Return the lines without their ``pip install … &&``, and none that is run elsewhere."""
    lines = [re.sub(r"^pip install \S+ && ", "", line) for line in text.splitlines()]
    return "\n".join(line for line in lines if not any(words in line for words in _ELSEWHERE))


def user_environment(directory: Path) -> dict[str, str]:
    """Return the variables of a user with folders in the directory, and with a curl that fails for an HTTP error."""
    (directory / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\n")
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "CURL_HOME": str(directory),
        "LLCUDA_HOME": str(directory / "llcuda"),
        "HF_HOME": str(directory / "hub"),
    }


def run(snippet: Snippet, directory: Path) -> str:
    """Run a block in the directory, which must succeed, and return what it printed."""
    with _beside_a_registry(snippet.text, directory) as text:
        python = [sys.executable, "-W", "error", "-c", text]
        result = subprocess.run(
            python if snippet.language == "python" else ["bash", "-euc", runnable_text(text)],
            cwd=directory,
            env=user_environment(directory),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
    assert result.returncode == 0, f"{name(snippet)}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@contextmanager
def _beside_a_registry(text: str, directory: Path) -> Iterator[str]:
    """Yield the block with the port at which a registry listens, if it names one."""
    if _REGISTRY not in text:
        yield text
        return
    folder, port = directory / "registry", find_port()
    folder.mkdir()
    with serve("registry", folder, port):
        yield text.replace(_REGISTRY, f"localhost:{port}")
