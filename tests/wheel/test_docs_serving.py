"""What the documentation shows of `llcuda serve` is started as it stands there, and asked as it stands there."""

from __future__ import annotations

import signal
import subprocess
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.wheel.snippets import Served, Snippet, find_served, name, run, runnable_text, user_environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SERVED = find_served()
_PORT = "8090"
_PATIENCE = 120


@contextmanager
def serving(start: Snippet, directory: Path) -> Iterator[str]:
    """Run what the block says, on a free port where it names none; the value is the port. Ctrl-C must end it."""
    *before, command = runnable_text(start.text).splitlines()
    assert command.startswith("llcuda serve"), name(start)
    with subprocess.Popen(
        ["bash", "-euc", "\n".join([*before, f"exec {command}"])],
        cwd=directory,
        env={**user_environment(directory), "LLCUDA_SERVE_PORT": "0"},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            said = next((line for line in process.stderr if " on http" in line), "")
            assert " on http://127.0.0.1:" in said, f"{name(start)}\n{said}"
            yield said.partition(" on http://127.0.0.1:")[2].split()[0].rstrip(";")
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=_PATIENCE)
            assert process.returncode == 0, f"{name(start)}\n{said}"
        finally:
            process.kill()


@pytest.mark.parametrize("served", _SERVED, ids=lambda served: name(served.start))
def test_a_gateway_is_started_and_asked(served: Served, tmp_path: Path) -> None:
    for file in served.files:
        (tmp_path / file.word).write_text(file.text, encoding="utf-8")
    with serving(served.start, tmp_path) as port:
        for snippet in served.snippets:
            run(replace(snippet, text=snippet.text.replace(_PORT, port)), tmp_path)


def test_gateways_are_started_and_every_one_is_asked_something() -> None:
    assert {served.start.page for served in _SERVED} >= {"serving.md", "serve-options.md"}
    assert all(served.snippets for served in _SERVED)
    assert any("curl" in one.text and _PORT in one.text for served in _SERVED for one in served.snippets)
