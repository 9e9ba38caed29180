"""Run :mod:`llcuda.gateway.admin.install_child`, hand on what it says, and end it if nobody waits for it any more."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from llcuda.errors import LlcudaError
from llcuda.fleet.timeouts import timeout
from llcuda.settings import drop_secrets

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Callable

__all__ = ["make_command", "run_child"]

_Result = TypeVar("_Result")

_MAX_LINE_BYTES = 1 << 20
_HUB_TOKENS = frozenset({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"})
_KILL_AFTER = 3.0
"""Seconds that it is given to clear up."""
# With -I no folder of the user's comes before the standard library; then everything is found as it is here.
_PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from llcuda.gateway.admin.install_child import main
sys.exit(main(sys.argv[2], sys.argv[3] or None))
"""


def make_command(action: str, source: str | None) -> list[str]:
    """Return the command line of the process."""
    return [sys.executable, "-I", "-c", _PROGRAM, json.dumps(sys.path), action, source or ""]


async def run_child(
    action: str, source: str | None, *, on_step: Callable[[dict[str, Any]], object] | None = None
) -> dict[str, Any]:
    """Return the result of ``action``; ``on_step`` is given each step of it.

    Raises LlcudaError with the message and the hint of what went wrong. Who is cancelled here ends the process.
    """
    command = make_command(action, source)
    environment = drop_secrets(os.environ, keep=_HUB_TOKENS)
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, limit=_MAX_LINE_BYTES, start_new_session=True, env=environment
        )
    )
    try:
        process = await _see_through(starting)
        last = await _follow(process, on_step)
    except OSError as error:
        raise LlcudaError(f"the installer cannot be started: {error.strerror or error}") from error
    finally:
        if starting.exception() is None:
            await _see_through(asyncio.ensure_future(_end(starting.result())))
    if "error" in last:
        raise LlcudaError(last["error"]["message"], hint=last["error"]["hint"])
    if "result" not in last:
        raise LlcudaError(f"the installer ended with status {process.returncode} and without a word")
    result: dict[str, Any] = last["result"]
    return result


async def _see_through(task: asyncio.Task[_Result]) -> _Result:
    """Return what a task does when it has ended, however often one is cancelled meanwhile: that is told afterwards.

    A start that is broken off leaves its pipes open, and an end that is, the process.
    """
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:  # noqa: PERF203 - each round is one
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return task.result()


async def _follow(process: Process, on_step: Callable[[dict[str, Any]], object] | None) -> dict[str, Any]:
    """Return the last line, after handing on the steps before it; nothing if it does not come to it."""
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    async for line in process.stdout:
        said: dict[str, Any] = json.loads(line)
        if "step" not in said:
            return said
        if on_step is not None:
            on_step(said)
    return {}


async def _end(process: Process) -> None:
    """Let it clear up, for a moment, reap it, and close its pipes."""
    assert process.stdin is not None  # noqa: S101 - it is a pipe
    assert process.stdout is not None  # noqa: S101 - it is one, too
    process.stdin.close()
    try:
        async with timeout(_KILL_AFTER):
            await process.wait()
    except asyncio.TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    # Only what was read to its end is closed; nobody else holds the other end.
    while await process.stdout.read(_MAX_LINE_BYTES):
        pass
