"""The installer's process, whose caller goes away at any moment, even twice."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from llcuda.errors import LlcudaError
from llcuda.gateway.admin import install_process
from llcuda.gateway.admin.install_process import run_child
from tests.processes import children_of

TICKS = 12  # the process has been started by then, and its first line is awaited


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a process that says nothing and ends with its stdin."""
    monkeypatch.setattr(install_process, "make_command", lambda *_: ["cat"])


def open_files() -> Counter[str]:
    return Counter(str(Path(entry.path).readlink()) for entry in os.scandir("/proc/self/fd"))


async def pass_ticks(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.usefixtures("waits")
@pytest.mark.parametrize("again", [None, 0, 1, 3, 8])
@pytest.mark.parametrize("ticks", range(TICKS))
def test_who_is_cancelled_leaves_no_process_and_no_pipe(ticks: int, again: int | None) -> None:
    async def run() -> None:
        task = asyncio.ensure_future(run_child("plan", None))
        await pass_ticks(ticks)
        task.cancel()
        if again is not None:
            await pass_ticks(again)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    gc.collect()
    before = open_files()
    asyncio.run(run())
    gc.collect()  # a pipe that was left open warns, and a warning is an error
    assert children_of(os.getpid()) == []
    assert not open_files() - before


@pytest.mark.parametrize("command", [["/nowhere/at/all"], ["true"]])
def test_one_that_cannot_be_started_or_says_nothing_is_an_error(
    monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setattr(install_process, "make_command", lambda *_: command)
    with pytest.raises(LlcudaError, match=r"the installer (cannot be started: No such file|ended with status 0 and)"):
        asyncio.run(run_child("plan", None))


def test_it_gets_the_hubs_token_and_no_other_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LLCUDA_SERVE_API_KEY", "LLAMA_API_KEY", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "HF_TOKEN"):
        monkeypatch.setenv(name, "secret")
    program = """if True:
        import json, os
        print(json.dumps({"result": {"names": [name for name, value in os.environ.items() if value == "secret"]}}))
    """
    monkeypatch.setattr(install_process, "make_command", lambda *_: [sys.executable, "-I", "-S", "-c", program])
    assert asyncio.run(run_child("plan", None)) == {"names": ["HF_TOKEN"]}
