"""llcuda-guard on its own, with real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import compile_guard
from tests.processes import (
    PATIENCE,
    children_of,
    is_alive,
    is_gone,
    killed_at_the_end,
    read_stat,
    wait_until,
    wait_until_gone,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

IGNORES_TERM = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(3600)
"""


AWAITS_TERM = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
print("up", flush=True)
signal.sigwait({signal.SIGTERM})
"""
"""It leaves no moment between looking and sleeping in which a signal is noted and nothing wakes."""


class Guarded:
    """A guard that runs a Python program, and the write end of its pipe."""

    def __init__(self, guard: Path, program: str, *options: str, leaked: tuple[int, ...] = (), **popen: Any) -> None:
        read_end, self.pipe = os.pipe()
        command = [str(guard), "--parent", str(os.getpid()), "--fd", str(read_end), *options]
        command += ["--", sys.executable, "-I", "-S", "-c", textwrap.dedent(program)]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(read_end, *leaked),
            start_new_session=True,
            **popen,
        )
        os.close(read_end)

    def read_line(self) -> str:
        assert self.process.stdout
        line: bytes = self.process.stdout.readline()
        return line.decode().strip()

    def child(self) -> int:
        wait_until(lambda: children_of(self.process.pid), what="the program to start")
        return children_of(self.process.pid)[0]

    def send(self, word: bytes) -> None:
        os.write(self.pipe, word)

    def close_pipe(self) -> None:
        if self.pipe >= 0:
            os.close(self.pipe)
            self.pipe = -1

    def wait(self) -> int:
        return self.process.wait(timeout=PATIENCE)

    def finish(self) -> None:
        self.close_pipe()
        with self.process:
            if self.process.poll() is None:
                self.process.kill()


@contextmanager
def guarded(guard: Path, program: str, *options: str, **popen: Any) -> Iterator[Guarded]:
    running = Guarded(guard, program, *options, **popen)
    try:
        yield running
    finally:
        running.finish()


def run_guard(guard: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(guard), *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False, **options
    )


@pytest.mark.parametrize("status", [0, 1, 42, 255])
def test_the_exit_status_is_passed_on(guard: Path, status: int) -> None:
    assert run_guard(guard, "--", "/bin/sh", "-c", f"exit {status}").returncode == status


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGABRT])
def test_a_death_by_signal_is_passed_on_as_the_same_signal(guard: Path, number: signal.Signals) -> None:
    assert run_guard(guard, "--", "/bin/sh", "-c", f"kill -{number.value} $$").returncode == -number


def test_output_and_arguments_reach_the_program_unchanged(guard: Path) -> None:
    done = run_guard(guard, "--", "/bin/echo", "--fd", "a b", "--", "")
    assert done.stdout == "--fd a b -- \n"
    assert done.stderr == ""


def test_a_program_that_is_not_there_is_127_and_one_line(guard: Path) -> None:
    done = run_guard(guard, "--", "/nonesuch/llama-server")
    assert done.returncode == 127
    assert done.stderr == "llcuda-guard: cannot run /nonesuch/llama-server: No such file or directory\n"


def test_a_program_that_may_not_be_run_is_126_and_one_line(guard: Path, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    done = run_guard(guard, "--", str(program))
    assert done.returncode == 126
    assert done.stderr == f"llcuda-guard: cannot run {program}: Permission denied\n"


def test_a_directory_that_is_not_there_is_125_and_named(guard: Path) -> None:
    done = run_guard(guard, "--directory", "/nonesuch", "--", "/bin/true")
    assert done.returncode == 125
    assert done.stderr == "llcuda-guard: /nonesuch: No such file or directory\n"


@pytest.mark.parametrize(
    "arguments",
    [[], ["--"], ["--fd", "2", "--", "/bin/true"], ["--fd"], ["--fd", "x", "--", "/bin/true"],
     ["--fd", "-1", "--", "/bin/true"], ["--nonesuch", "1", "--", "/bin/true"], ["--fd", "99", "--", "/bin/true"],
     ["/bin/true"], ["--term-ms", "99999999999999999999", "--", "/bin/true"]],
    ids=" ".join,
)  # fmt: skip
def test_a_wrong_command_line_is_125_and_runs_nothing(guard: Path, arguments: list[str]) -> None:
    done = run_guard(guard, *arguments)
    assert done.returncode == 125
    assert done.stderr.startswith("llcuda-guard: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_guard_whose_parent_is_gone_already_runs_nothing(guard: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    done = run_guard(guard, "--parent", "1", "--", "/bin/sh", "-c", f"touch {mark}")
    assert done.returncode == 125
    assert "parent" in done.stderr
    assert not mark.exists()


def test_the_word_q_ends_the_program_in_order(guard: Path) -> None:
    with guarded(guard, AWAITS_TERM + "sys.exit(7)") as running:
        assert running.read_line() == "up"
        running.send(b"q")
        assert running.wait() == 7


def test_a_second_sigterm_follows_when_the_first_is_lost(guard: Path) -> None:
    program = AWAITS_TERM + """
signal.sigwait({signal.SIGTERM})
import time
print(time.monotonic(), flush=True)
sys.exit(3)
"""
    # Two signals that wait for a program which gets no turn become one.
    with guarded(guard, program, "--term-ms", "1000", "--kill-ms", "3600000") as running:
        running.read_line()
        sent = time.monotonic()
        running.send(b"q")
        assert running.wait() == 3
        assert float(running.read_line()) - sent > 0.99


def test_sigkill_follows_at_the_deadline(guard: Path) -> None:
    with guarded(guard, IGNORES_TERM, "--term-ms", "20", "--kill-ms", "150") as running:
        running.read_line()
        sent = time.monotonic()
        running.send(b"q")
        assert running.wait() == -signal.SIGKILL
        assert time.monotonic() - sent > 0.14


def test_the_word_k_kills_at_once(guard: Path) -> None:
    with guarded(guard, IGNORES_TERM, "--kill-ms", "3600000") as running:
        running.read_line()
        running.send(b"q")
        running.send(b"k")
        assert running.wait() == -signal.SIGKILL


def test_closing_the_pipe_after_the_word_q_does_not_hurry_the_end(guard: Path) -> None:
    program = AWAITS_TERM + "import time; time.sleep(0.4); sys.exit(7)"
    with guarded(guard, program, "--term-ms", "3600000", "--kill-ms", "3600000") as running:
        running.read_line()
        running.send(b"q")
        running.close_pipe()
        assert running.wait() == 7


def test_a_closed_pipe_ends_even_a_program_that_ignores_sigterm(guard: Path) -> None:
    with guarded(guard, IGNORES_TERM, "--term-ms", "3600000", "--kill-ms", "3600000") as running:
        running.read_line()
        child = running.child()
        running.close_pipe()
        assert running.wait() == -signal.SIGKILL
        assert not is_alive(child)


def test_a_closed_pipe_gives_the_program_one_chance_to_end_by_itself(guard: Path) -> None:
    with guarded(guard, AWAITS_TERM + "print('bye', flush=True); sys.exit(7)") as running:
        running.read_line()
        running.close_pipe()
        assert running.read_line() == "bye"
        assert running.wait() == 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_guard_ends_the_program_in_order(guard: Path, number: signal.Signals) -> None:
    with guarded(guard, AWAITS_TERM + "sys.exit(7)") as running:
        running.read_line()
        running.process.send_signal(number)
        assert running.wait() == 7


def test_the_program_dies_with_a_killed_guard(guard: Path) -> None:
    with guarded(guard, IGNORES_TERM) as running:
        running.read_line()
        child = running.child()
        running.process.kill()
        wait_until_gone(child)


def test_a_stopped_program_is_ended_too(guard: Path) -> None:
    with guarded(guard, "import time; print('up', flush=True); time.sleep(3600)", "--kill-ms", "3600000") as running:
        running.read_line()
        child = running.child()
        os.kill(child, signal.SIGSTOP)
        wait_until(lambda: (read_stat(child) or "?")[0] == "T", what="the program to stop")
        running.send(b"q")
        assert running.wait() == -signal.SIGTERM


HOLDER = """
import os, subprocess, sys, time
read_end, write_end = os.pipe()
# Somebody else holds the pipe open, so only the parent's own death can tell.
holder = subprocess.Popen(["/bin/sleep", "3600"], pass_fds=(write_end,), stdout=subprocess.DEVNULL)
program = "import os, signal, time; signal.signal(15, signal.SIG_IGN); print(os.getpid(), flush=True); time.sleep(3600)"
guard = subprocess.Popen([sys.argv[1], "--parent", str(os.getpid()), "--fd", str(read_end), "--",
                          sys.executable, "-c", program], pass_fds=(read_end,), start_new_session=True)
print(holder.pid, guard.pid, flush=True)
time.sleep(3600)
"""


def assert_ends_with_its_parent(guard: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(guard)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pids = [int(word) for _ in range(2) for word in parent.stdout.readline().split()]
        assert len(pids) == 3
        with killed_at_the_end(*pids):
            holder = next(pid for pid in pids if Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
            ours = [pid for pid in pids if pid != holder]
            parent.kill()
            wait_until_gone(*ours)
            assert is_alive(holder)


def test_the_parents_death_is_seen_although_another_process_holds_the_pipe(guard: Path) -> None:
    assert_ends_with_its_parent(guard)


def test_the_parents_death_is_seen_on_a_kernel_without_pidfd_and_close_range(tmp_path: Path) -> None:
    header = tmp_path / "old.h"
    header.write_text(
        "#define _GNU_SOURCE\n#include <sys/syscall.h>\n#undef SYS_pidfd_open\n#undef SYS_close_range\n"
        "#define SYS_pidfd_open 100000\n#define SYS_close_range 100001\n#undef _GNU_SOURCE\n"
    )
    old = compile_guard(tmp_path / "guard", "-include", str(header))
    assert_ends_with_its_parent(old)
    assert inspect_program(old)["fds"] == ["0", "1", "2"]


REPORT = """
import json, os, resource
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines())
fds = [fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
print(json.dumps({
    "fds": sorted(fds), "stdin": os.readlink("/proc/self/fd/0"), "environment": dict(os.environ), "cwd": os.getcwd(),
    "blocked": status["SigBlk"], "ignored": status["SigIgn"], "privileges": status["NoNewPrivs"],
    "core": resource.getrlimit(resource.RLIMIT_CORE), "leader": os.getpgid(0) == os.getpid(),
}), flush=True)
"""


def inspect_program(guard: Path, *options: str, **popen: Any) -> dict[str, Any]:
    with guarded(guard, REPORT, *options, **popen) as running:
        report: dict[str, Any] = json.loads(running.read_line())
        assert running.wait() == 0
        return report


def test_the_program_starts_with_nothing_that_it_does_not_need(guard: Path, tmp_path: Path) -> None:
    leaked = os.open("/dev/null", os.O_RDONLY)
    try:
        report = inspect_program(guard, "--directory", str(tmp_path), leaked=(leaked,))
    finally:
        os.close(leaked)
    assert report["fds"] == ["0", "1", "2"]
    assert report["stdin"] == "/dev/null"
    assert report["cwd"] == str(tmp_path)
    assert int(report["blocked"], 16) == 0
    assert report["privileges"] == "1"
    assert report["core"] == [0, 0]
    assert report["leader"]


def test_the_programs_signals_are_reset_whatever_the_parent_ignored(guard: Path) -> None:
    def ignore_and_block() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1])

    report = inspect_program(guard, preexec_fn=ignore_and_block)
    assert int(report["blocked"], 16) == 0
    # Python itself ignores SIGPIPE and SIGXFSZ; the last two bits of the 64 are the C library's.
    python_own = 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)
    assert int(report["ignored"], 16) == python_own


ALLOWED = {
    "PATH": "/bin", "HOME": "/h", "LANG": "C", "LC_ALL": "C", "TZ": "UTC", "TMPDIR": "/t", "LD_LIBRARY_PATH": "/l",
    "CUDA_VISIBLE_DEVICES": "0", "NVIDIA_VISIBLE_DEVICES": "all", "GGML_BACKEND_PATH": "/b", "LLAMA_API_KEY": "k",
    "XDG_CACHE_HOME": "/c", "USER": "u", "LOGNAME": "u", "LANGUAGE": "en",
}  # fmt: skip
DROPPED = {
    "HF_TOKEN": "x", "CUDA_TOKEN": "x", "GGML_SECRET": "x", "NVIDIA_PASSWORD": "x", "LLAMA_ARG_PORT": "1",
    "LD_PRELOAD": "", "http_proxy": "x", "HTTPS_PROXY": "x", "ALL_PROXY": "x", "PATHOLOGY": "x", "HOMEPAGE": "x",
    "AIP_MODE": "PREDICTION", "LLAMA_SERVER_ROUTER_PORT": "1", "LLAMA_API_KEYS": "x", "AWS_ACCESS_KEY_ID": "x",
    "LLAMA_APP_CMD": "x", "OPENAI_API_KEY": "x", "LD_AUDIT": "", "GLIBC_TUNABLES": "", "CUDA": "x",
    "NVIDIA_API_KEY": "x", "GGML_KEY": "x", "CUDA_CREDENTIALS": "x",
}  # fmt: skip


def test_the_environment_is_an_allow_list(guard: Path) -> None:
    report = inspect_program(guard, env={**ALLOWED, **DROPPED})
    seen = report["environment"]
    seen.pop("LC_CTYPE", None)  # Python's own
    assert seen == ALLOWED


def test_the_guard_itself_keeps_nothing_of_its_environment(guard: Path) -> None:
    with guarded(guard, "import time; print('up', flush=True); time.sleep(60)", env={**ALLOWED, **DROPPED}) as running:
        assert running.read_line() == "up"
        left = set(Path(f"/proc/{running.process.pid}/environ").read_bytes().split(b"\0"))
        assert left <= {b"", b"GLIBC_TUNABLES="}, "the C library moves that one before the program begins"
        assert b"LLAMA_API_KEY=k\0" in Path(f"/proc/{running.child()}/environ").read_bytes()


def test_the_guard_works_with_its_standard_descriptors_closed(guard: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    command = f'exec "{guard}" -- /bin/sh -c "echo done > {mark}" <&- >&- 2>&-'
    assert subprocess.run(["/bin/sh", "-c", command], check=False, timeout=PATIENCE).returncode == 0
    assert mark.read_text() == "done\n"


def test_the_guard_holds_no_end_of_the_log(guard: Path) -> None:
    with guarded(guard, "import time; print('up', flush=True); time.sleep(60)") as running:
        running.read_line()
        opened = [Path(f"/proc/{running.process.pid}/fd/{fd}").readlink() for fd in (0, 1, 2)]
        assert opened == [Path("/dev/null")] * 3


FORKS = """
import os, sys, time
read_end, write_end = os.pipe()
child = os.fork()
if child == 0:
    {before}
    print(os.getpid(), flush=True)
    os.write(write_end, b"x")
    time.sleep(3600)
os.read(read_end, 1)
{then}
"""


def test_relatives_that_outlive_the_program_are_killed_and_reaped(guard: Path) -> None:
    with guarded(guard, FORKS.format(before="pass", then="sys.exit(5)")) as running:
        relative = int(running.read_line())
        assert running.wait() == 5
        assert is_gone(relative)


def test_a_relative_that_left_the_group_is_no_business_of_the_guard(guard: Path) -> None:
    with guarded(guard, FORKS.format(before="os.setsid()", then="sys.exit(5)")) as running:
        relative = int(running.read_line())
        with killed_at_the_end(relative):
            assert running.wait() == 5
            assert is_alive(relative)


def test_orphans_of_the_program_are_reaped_while_it_runs(guard: Path) -> None:
    program = """
        import os, time
        middle = os.fork()
        if middle == 0:
            if os.fork() == 0:
                print(os.getpid(), flush=True)
                time.sleep(0.05)
            os._exit(0)
        os.waitpid(middle, 0)
        time.sleep(60)
    """
    with guarded(guard, program) as running:
        orphan = int(running.read_line())
        wait_until(lambda: is_gone(orphan), what="the orphan to be reaped")
        assert running.process.poll() is None
        running.send(b"k")
        running.wait()


def test_a_neighbour_in_the_guards_own_session_is_not_touched(guard: Path) -> None:
    script = f'sleep 60 & echo $!; exec "{guard}" -- /bin/sh -c "exit 3"'
    command = ["/bin/sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as shell:
        assert shell.stdout
        neighbour = int(shell.stdout.readline())
        with killed_at_the_end(neighbour):
            assert shell.wait(timeout=PATIENCE) == 3
            assert is_alive(neighbour)


def can_make_namespaces() -> bool:
    command = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "true"]
    try:
        return subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not can_make_namespaces(), reason="this system lets nobody make a process namespace")
class TestAsProcessOne:
    COMMAND = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child")

    def test_the_exit_status_is_passed_on(self, guard: Path) -> None:
        done = subprocess.run(
            [*self.COMMAND, str(guard), "--", "/bin/sh", "-c", "exit 9"], timeout=PATIENCE, check=False
        )
        assert done.returncode == 9

    def test_a_death_by_signal_is_a_status_because_no_signal_is_deadly(self, guard: Path) -> None:
        done = subprocess.run(
            [*self.COMMAND, str(guard), "--", "/bin/sh", "-c", "kill -9 $$"], timeout=PATIENCE, check=False
        )
        assert done.returncode == 128 + signal.SIGKILL

    def test_sigterm_ends_it_in_order(self, guard: Path) -> None:
        command = [*self.COMMAND, str(guard), "--", sys.executable, "-c", AWAITS_TERM + "sys.exit(7)"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as outer:
            assert outer.stdout
            assert outer.stdout.readline() == "up\n"
            (first,) = children_of(outer.pid)
            os.kill(first, signal.SIGTERM)
            assert outer.wait(timeout=PATIENCE) == 7

    def test_a_parent_that_is_process_one_is_accepted(self, guard: Path) -> None:
        script = f'"{guard}" --parent 1 -- /bin/sh -c "exit 9"; exit $?'
        assert subprocess.run([*self.COMMAND, "/bin/sh", "-c", script], timeout=PATIENCE, check=False).returncode == 9


def test_the_executable_is_hardened(guard: Path) -> None:
    headers = subprocess.run(["readelf", "-hldW", str(guard)], capture_output=True, text=True, check=True).stdout
    assert "DYN (Position-Independent" in headers
    assert "GNU_RELRO" in headers
    assert "BIND_NOW" in headers or "Flags: NOW" in headers or "FLAGS_1" in headers
    (stack,) = (line for line in headers.splitlines() if "GNU_STACK" in line)
    assert " RW " in stack
