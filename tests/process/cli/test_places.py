"""The commands in the places where people start them: without a terminal, a home or an output, and interrupted."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

LLCUDA = [sys.executable, "-m", "llcuda"]
ANSWER = [*LLCUDA, "infer", "-m", "demo", "--device", "cpu", "--temperature", "0", "-p", "What is 2+2?"]


def shell(line: str, *command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command in a shell, where ``"$@"`` stands for it."""
    return subprocess.run(
        ["/bin/sh", "-c", line, "sh", *command],
        capture_output=True, check=False, timeout=100, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.mark.parametrize("closed", ["0<&-", "0<&- 2>&-", "2>&-"])
def test_a_closed_descriptor_is_in_nobodys_way(closed: str) -> None:
    done = shell(f'"$@" {closed}', *ANSWER)
    assert (done.returncode, done.stdout) == (0, b"2 + 2 = 4.\n"), done.stderr


def test_a_closed_output_is_in_nobodys_way() -> None:
    assert shell('"$@" >&-', *ANSWER).returncode == 0


def test_a_library_in_a_process_without_descriptors_starts_a_server() -> None:
    code = "import os, sys, llcuda; engine = llcuda.InferenceEngine(); os.closerange(0, 2)\n"
    code += "with engine:\n engine.load_model('demo', device='cpu', silent=True)\n"
    code += " os.write(2, engine.infer('What is 2+2?').text.encode())"
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, check=False, timeout=100)
    assert b"4" in done.stderr
    assert done.returncode == 0, done.stderr


def test_a_full_output_is_said_in_one_line() -> None:
    done = shell('"$@" >/dev/full', *LLCUDA, "models", "list")
    assert done.returncode == 1
    assert done.stderr == b"llcuda: the output cannot be written: No space left on device\n"


def test_a_reader_that_has_gone_is_no_error() -> None:
    done = shell('"$@" | head -n 0; echo', *LLCUDA, "models", "list")
    assert done.stderr == b""


def test_an_encoding_without_the_characters_is_no_error() -> None:
    done = shell('"$@"', *LLCUDA, "serve", "--help", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert b"\\u2026" in done.stdout


@pytest.mark.parametrize("command", [["models", "list"], ["models", "list", "--json"], ["doctor"]])
def test_no_home_is_needed(command: list[str]) -> None:
    code = "import pwd, sys, runpy\n"
    code += "def missing(uid): raise KeyError(uid)\n"
    code += "pwd.getpwuid = missing; sys.argv[:1] = ['llcuda']\n"
    code += "runpy.run_module('llcuda', run_name='__main__')"
    environment = {name: value for name, value in os.environ.items() if name not in {"HOME", "LLCUDA_HOME"}}
    done = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, check=False, timeout=100,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("imported", ["argparse", "llcuda.errors", "llcuda.cli.output", "llcuda.cli"])
def test_an_early_interrupt_ends_without_a_word(imported: str) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "llcuda", "infer", "-m", "demo", "-p", "-"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr
    while not process.stderr.readline().endswith(f" {imported}\n".encode()):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode in {130, -signal.SIGINT}, said
    assert b"Traceback" not in said


@contextmanager
def serve_at_a_terminal(*before: str) -> Iterator[tuple[int, int]]:
    """Run ``llcuda serve`` at a terminal of its own, given its process id and the terminal's other end, to its end."""
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as it is unless these tests run under nohup
        command = [*before, *LLCUDA, "serve", "-m", "demo", "--port", "0"]
        os.execvp(command[0], command)  # noqa: S606
    try:
        yield pid, terminal
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        os.close(terminal)  # which a gateway that ends outlives
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def read_until(terminal: int, words: bytes) -> bytes:
    said = b""
    while words not in said:
        said += os.read(terminal, 4096)
    return said


def test_a_gateway_ends_with_its_terminal() -> None:
    with serve_at_a_terminal() as (pid, terminal):
        assert b"  Using " in read_until(terminal, b"try: llcuda-client --url")
        os.kill(pid, signal.SIGHUP)
        read_until(terminal, b"SIGHUP: the terminal has closed, so this gateway ends")


def test_under_nohup_it_reloads() -> None:
    with serve_at_a_terminal("env", "--ignore-signal=HUP") as (pid, terminal):
        read_until(terminal, b"serves demo")
        os.kill(pid, signal.SIGHUP)
        read_until(terminal, b"SIGHUP: reading the configuration and replacing the workers")
        os.kill(pid, signal.SIGTERM)
