"""ServerManager with a stand-in for llama-server, for what the real one cannot be made to do on demand."""

from __future__ import annotations

import gc
import logging
import mmap
import multiprocessing
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llcuda.errors import (
    BinaryUnusableError,
    PortInUseError,
    ServerError,
    ServerExitedError,
    ServerNotReadyError,
    UsageError,
)
from llcuda.server import ServerManager
from llcuda.server.log import MAX_LINE_BYTES
from llcuda.server.readiness import find_child, measure_progress
from tests.processes import (
    PATIENCE,
    children_of,
    is_alive,
    is_gone,
    killed_at_the_end,
    policies_of,
    wait_until,
    wait_until_gone,
)
from tests.standins.fake_llama_server import FAULTS

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("fake_server")


@pytest.fixture
def manager() -> Iterator[ServerManager]:
    with ServerManager() as running:
        yield running


def start(manager: ServerManager, fault: str = "none", **options: Any) -> None:
    manager.start_server("/models/x.gguf", fake_fault=fault, **options)


def pids_of(manager: ServerManager) -> list[int]:
    assert manager.pid
    assert manager.server_pid
    return [manager.pid, manager.server_pid]


def open_descriptors() -> list[str]:
    return sorted(entry.name for entry in Path("/proc/self/fd").iterdir())


def test_a_server_becomes_ready_answers_and_stops(manager: ServerManager) -> None:
    assert manager.state == "stopped"
    start(manager)
    assert manager.state == "ready"
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", manager.url)
    assert manager.url.endswith(f":{manager.port}")
    assert manager.check_server_health()
    assert manager.get_server_info() == {"total_slots": 1}
    pids = pids_of(manager)
    manager.stop_server()
    assert manager.state == "stopped"
    assert manager.returncode == 0
    assert manager.pid is None
    assert manager.server_pid is None
    assert not manager.check_server_health()
    assert all(is_gone(pid) for pid in pids)


def test_nothing_is_known_before_the_first_start() -> None:
    manager = ServerManager()
    assert (manager.pid, manager.returncode, manager.api_key, manager.command) == (None, None, None, ())
    assert (manager.log, manager.log_tail) == ((), ())
    for ask in (lambda: manager.url, lambda: manager.port, manager.get_server_info):
        with pytest.raises(ServerError, match="no server is running"):
            ask()
    assert not manager.check_server_health()
    manager.stop_server()
    manager.raise_if_exited()


def test_a_manager_can_be_used_again(manager: ServerManager) -> None:
    keys = set()
    for _ in range(3):
        start(manager)
        keys.add(manager.api_key)
        manager.stop_server()
    assert len(keys) == 3


def test_a_second_start_is_refused_and_leaves_the_first_alone(manager: ServerManager) -> None:
    start(manager)
    with pytest.raises(UsageError, match="ready"):
        start(manager)
    assert manager.check_server_health()


def test_the_key_is_in_the_childs_environment_and_nowhere_else(manager: ServerManager) -> None:
    start(manager, api_key="the-key-of-this-test")
    assert manager.api_key == "the-key-of-this-test"
    pid = manager.server_pid
    assert b"LLAMA_API_KEY=the-key-of-this-test\0" in Path(f"/proc/{pid}/environ").read_bytes()
    for relative in pids_of(manager):
        assert b"the-key-of-this-test" not in Path(f"/proc/{relative}/cmdline").read_bytes()
        if relative != pid:
            assert b"the-key-of-this-test" not in Path(f"/proc/{relative}/environ").read_bytes()
    assert not any("the-key-of-this-test" in part for part in (*manager.command, *manager.log))
    assert "the-key-of-this-test" not in repr(manager)
    assert "LLAMA_API_KEY" not in os.environ


def test_the_child_gets_its_own_folder_as_directory_and_no_secrets(
    manager: ServerManager, fake_server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("LLAMA_ARG_PORT", "1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    start(manager)
    assert Path(f"/proc/{manager.server_pid}/cwd").readlink() == fake_server.parent
    environment = Path(f"/proc/{manager.server_pid}/environ").read_bytes().split(b"\0")
    names = {entry.partition(b"=")[0] for entry in environment}
    assert not names & {b"HF_TOKEN", b"LLAMA_ARG_PORT", b"http_proxy"}
    assert b"secret" not in Path(f"/proc/{manager.pid}/environ").read_bytes()
    assert b"GGML_NO_BACKTRACE=1" in environment
    library_path = next(entry for entry in environment if entry.startswith(b"LD_LIBRARY_PATH="))
    assert library_path.partition(b"=")[2].split(b":")[0] == bytes(fake_server.parent)


def test_it_is_scheduled_like_any_other_program_unless_it_is_told_otherwise(manager: ServerManager) -> None:
    start(manager)
    assert manager.server_pid
    assert policies_of(manager.server_pid) == {os.SCHED_OTHER}


@pytest.mark.parametrize(("before", "after"), [("SCHED_OTHER", "SCHED_BATCH"), ("SCHED_IDLE", "SCHED_IDLE")])
def test_a_batch_job_keeps_a_policy_that_somebody_chose(before: str, after: str) -> None:
    def test() -> set[int]:
        os.sched_setscheduler(0, getattr(os, before), os.sched_param(0))
        with ServerManager(is_batch=True) as manager:
            start(manager)
            assert manager.server_pid
            return policies_of(manager.server_pid)

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(test).result() == {getattr(os, after)}


def test_an_explicit_port_is_used(manager: ServerManager) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    start(manager, port=port)
    assert manager.port == port
    manager.stop_server()
    start(manager, port=port)  # although its last connections are still closing


@pytest.mark.parametrize("listening_on", ["127.0.0.1", "0.0.0.0", "::"])  # noqa: S104 - where strangers listen
def test_a_stranger_on_the_port_is_never_taken_for_ours(manager: ServerManager, listening_on: str) -> None:
    family = socket.AF_INET6 if ":" in listening_on else socket.AF_INET
    with socket.create_server((listening_on, 0), family=family, dualstack_ipv6=":" in listening_on) as stranger:
        port = stranger.getsockname()[1]
        with pytest.raises(PortInUseError) as caught:
            start(manager, port=port)
        assert (caught.value.host, caught.value.port) == ("127.0.0.1", port)
    assert manager.state == "stopped"
    assert not children_of(os.getpid())


@pytest.mark.parametrize(
    ("options", "says"),
    [({"port": -1}, "port=-1"), ({"port": 65536}, "65536"), ({"port": 0}, "port=0"), ({"host": "example.org"}, "host="),
     ({"host": "/tmp/x.sock"}, "others can write"), ({"host": "192.0.2.1", "port": 1234}, "nothing can listen"),
     ({"api_key": "a,b"}, "api_key"), ({"offline": False}, "offline")],
)  # fmt: skip
def test_a_wrong_argument_starts_nothing(manager: ServerManager, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        start(manager, **options)
    assert manager.state == "stopped"
    assert not children_of(os.getpid())


def test_a_server_on_every_address_is_asked_on_loopback(manager: ServerManager) -> None:
    start(manager, host="0.0.0.0")  # noqa: S104 - the point of this test
    assert manager.url.startswith("http://127.0.0.1:")
    assert manager.check_server_health()


@pytest.mark.parametrize("fault", ["slow-log", "slow-read", "slow-memory"])
def test_a_slow_server_that_makes_progress_is_waited_for(manager: ServerManager, fault: str) -> None:
    start(manager, f"{fault}:4", stall_timeout=3)
    assert manager.state == "ready"


def test_a_server_that_stalls_is_given_up(manager: ServerManager) -> None:
    with pytest.raises(ServerNotReadyError, match="no progress for 2 s") as caught:
        start(manager, "stall", stall_timeout=2)
    assert caught.value.timeout == 2
    assert isinstance(caught.value, TimeoutError)
    assert "initializing" in caught.value.log_tail[0]
    assert manager.state == "stopped"
    assert not children_of(os.getpid())


def test_a_total_timeout_ends_even_a_server_that_makes_progress(manager: ServerManager) -> None:
    with pytest.raises(ServerNotReadyError, match=r"not ready within 0\.7 s"):
        start(manager, "slow-log:60", timeout=0.7)
    assert not children_of(os.getpid())


@pytest.mark.parametrize(
    ("fault", "says"), [("mute", "does not answer"), ("refuse", "does not answer"), ("unhealthy", "HTTP 503")]
)
def test_a_server_that_listens_and_does_not_answer_is_not_ready(manager: ServerManager, fault: str, says: str) -> None:
    with pytest.raises(ServerNotReadyError, match=says):
        start(manager, fault, stall_timeout=2)
    assert not children_of(os.getpid())


def test_only_the_line_itself_says_where_it_listens(manager: ServerManager) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        start(manager, f"boast:{stranger.getsockname()[1]}")
        assert manager.port != stranger.getsockname()[1]
        assert manager.check_server_health()


def test_a_death_while_loading_is_told_at_once_with_the_log(manager: ServerManager) -> None:
    with pytest.raises(ServerExitedError, match="SIGABRT") as caught:
        start(manager, f"die-loading:{signal.SIGABRT.value}")
    assert caught.value.returncode == -signal.SIGABRT
    assert any("initializing" in line for line in caught.value.log_tail)
    assert manager.state == "stopped"
    assert manager.returncode == -signal.SIGABRT


def test_a_death_before_the_first_word_means_a_bad_binary(manager: ServerManager) -> None:
    with pytest.raises(BinaryUnusableError, match="damaged"):
        start(manager, f"die-first:{signal.SIGBUS.value}")


@pytest.mark.parametrize(("fault", "code"), [("exit:3", 3), (f"die:{signal.SIGKILL.value}", -signal.SIGKILL)])
def test_a_death_after_the_start_is_the_state_exited(manager: ServerManager, fault: str, code: int) -> None:
    start(manager, fault)
    manager.get_server_info()
    wait_until(lambda: manager.state == "exited")
    assert manager.returncode == code
    assert not manager.check_server_health()
    with pytest.raises(ServerExitedError) as caught:
        manager.raise_if_exited()
    assert caught.value.returncode == code
    assert caught.value.log_tail == manager.log_tail
    assert not children_of(os.getpid()), "the dead are reaped without being asked for"
    start(manager)
    assert manager.state == "ready"


def test_a_killed_guard_takes_the_server_with_it(manager: ServerManager) -> None:
    start(manager)
    guard, server = pids_of(manager)
    os.kill(guard, signal.SIGKILL)
    wait_until_gone(guard, server)
    wait_until(lambda: manager.state == "exited")
    assert manager.returncode == -signal.SIGKILL


@pytest.mark.parametrize("megabytes", [100])
def test_a_flood_of_log_neither_blocks_the_server_nor_fills_the_memory(manager: ServerManager, megabytes: int) -> None:
    start(manager, f"flood:{megabytes * 1_000_000}")
    assert manager.state == "ready"
    assert sum(map(len, manager.log)) < 1_000_000
    assert len(manager.log_tail) == 40


def test_one_endless_line_does_not_fill_the_memory(manager: ServerManager) -> None:
    start(manager, "endless-line:50000000")
    assert max(map(len, manager.log)) == MAX_LINE_BYTES


def test_a_lost_sigterm_is_sent_again(manager: ServerManager) -> None:
    start(manager, "lose-term")
    manager.stop_server(timeout=PATIENCE)
    assert manager.returncode == 1


def test_a_server_that_ignores_sigterm_is_killed_at_the_timeout(manager: ServerManager) -> None:
    start(manager, "ignore-term")
    started = time.monotonic()
    manager.stop_server(timeout=0.3)
    assert time.monotonic() - started >= 0.3
    assert manager.returncode == -signal.SIGKILL


def test_a_server_that_needs_time_to_end_gets_it(manager: ServerManager) -> None:
    start(manager, "slow-exit:0.2")
    manager.stop_server(timeout=PATIENCE)
    assert manager.returncode == 0


def test_a_relative_that_keeps_the_log_open_delays_nothing(manager: ServerManager) -> None:
    start(manager, "relative")
    relatives = children_of(manager.server_pid or 0)
    with killed_at_the_end(*relatives):
        manager.stop_server()
        assert relatives
        assert all(map(is_alive, relatives))
    assert not children_of(os.getpid())


def test_stopping_from_many_threads_at_once_is_one_stop(manager: ServerManager) -> None:
    start(manager, "slow-exit:0.1")
    failures: list[BaseException] = []

    def stop() -> None:
        try:
            manager.stop_server()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test must show it
            failures.append(error)

    threads = [threading.Thread(target=stop) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert failures == []
    assert manager.state == "stopped"
    assert not children_of(os.getpid())


def test_a_stop_while_it_starts_ends_the_start(manager: ServerManager) -> None:
    caught: list[BaseException] = []

    def begin() -> None:
        try:
            start(manager, "stall")
        except ServerError as error:
            caught.append(error)

    thread = threading.Thread(target=begin)
    thread.start()
    wait_until(lambda: manager.server_pid is not None)
    assert manager.state == "starting"
    manager.stop_server()
    thread.join(PATIENCE)
    assert manager.state == "stopped"
    assert [str(error) for error in caught] == ["llama-server was stopped while it was starting"]
    assert not children_of(os.getpid())


def test_the_server_outlives_the_thread_that_started_it(manager: ServerManager) -> None:
    thread = threading.Thread(target=start, args=(manager,))
    thread.start()
    thread.join(PATIENCE)
    time.sleep(0.2)  # a death signal bound to the thread would have come by now
    assert manager.state == "ready"
    assert manager.check_server_health()


def test_ctrl_c_while_it_starts_stops_it_and_is_raised_again(manager: ServerManager) -> None:
    def interrupt() -> None:
        wait_until(lambda: manager.server_pid is not None)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        start(manager, "stall")
    thread.join(PATIENCE)
    assert manager.state == "stopped"
    assert not children_of(os.getpid())


def test_a_stop_from_a_signal_handler_while_it_starts_does_not_hang(manager: ServerManager) -> None:
    previous = signal.signal(signal.SIGUSR1, lambda *_: manager.stop_server())

    def signal_soon() -> None:
        wait_until(lambda: manager.server_pid is not None)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    thread = threading.Thread(target=signal_soon)
    thread.start()
    try:
        with pytest.raises(ServerError, match="stopped while it was starting"):
            start(manager, "stall")
    finally:
        thread.join(PATIENCE)
        signal.signal(signal.SIGUSR1, previous)
    assert manager.state == "stopped"


def test_a_stop_from_a_signal_handler_at_any_moment_leaves_nothing(manager: ServerManager) -> None:
    previous = signal.signal(signal.SIGALRM, lambda *_: manager.stop_server())
    try:
        for step in range(30):
            signal.setitimer(signal.ITIMER_REAL, 0.0002 + step * 0.002)
            with suppress(ServerError):
                start(manager)
            signal.setitimer(signal.ITIMER_REAL, 0)
            manager.stop_server()
            assert manager.state == "stopped"
            assert not children_of(os.getpid())
    finally:
        signal.signal(signal.SIGALRM, previous)


# Where the interrupt falls into a destructor, Python itself swallows it and says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_at_any_moment_of_the_start_leaves_nothing(manager: ServerManager) -> None:
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    interrupted = 0
    try:
        for step in range(30):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0002 + step * 0.002)
                start(manager)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
            manager.stop_server()
            assert manager.state == "stopped"
            wait_until(lambda: not children_of(os.getpid()))
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert interrupted > 5


def test_garbage_collection_stops_the_server() -> None:
    manager = ServerManager()
    start(manager)
    pids = pids_of(manager)
    del manager
    gc.collect()
    assert all(is_gone(pid) for pid in pids)


def test_a_reference_cycle_is_no_hindrance() -> None:
    manager = ServerManager()
    start(manager)
    pids = pids_of(manager)
    cycle: list[Any] = [manager]
    cycle.append(cycle)
    del manager, cycle
    gc.collect()
    assert all(is_gone(pid) for pid in pids)


def test_leaving_the_context_stops_the_server() -> None:
    pids: list[int] = []

    def fail_inside() -> None:
        with ServerManager() as manager:
            start(manager)
            pids.extend(pids_of(manager))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert len(pids) == 2
    assert all(is_gone(pid) for pid in pids)


def run_python(program: str, guard: Path, *, status: int = 0) -> list[int]:
    """Run a program that starts a server and prints pids; return them."""
    head = f"""
        import os, sys, threading
        from pathlib import Path
        import llcuda.server.manager
        llcuda.server.manager.find_guard = lambda: Path({str(guard)!r})
        from llcuda.server import ServerManager
        manager = ServerManager()
        manager.start_server("/x.gguf", fake_fault=os.environ.get("FAULT", "none"))
        print(manager.pid, manager.server_pid, flush=True)
    """
    source = textwrap.dedent(head) + textwrap.dedent(program)
    # Python 3.12 and later warn of every fork in a process with threads.
    warnings = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]
    command = [sys.executable, *warnings, "-c", source]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    assert done.stderr == ""
    return [int(word) for word in done.stdout.split()]


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("threading.Thread(target=lambda: None).start()", 0),
        ("import builtins; builtins.kept = manager", 0),
        ("manager.stop_server()", 0),
    ],
    ids=["end", "exit", "thread", "global", "stopped"],
)
def test_the_interpreters_exit_stops_the_server(guard: Path, program: str, status: int) -> None:
    pids = run_python(program, guard, status=status)
    assert len(pids) == 2
    assert all(is_gone(pid) for pid in pids)


def test_an_exit_without_goodbye_ends_the_server(guard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULT", "ignore-term")
    pids = run_python("os._exit(0)", guard)
    wait_until_gone(*pids)


def in_forked_child(act: Any) -> str:
    """Fork, run ``act`` in the child, and return the text that it gave."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            text = str(act())
        except BaseException as error:  # noqa: BLE001 - nothing may leave the forked child
            text = f"{type(error).__name__}: {error}"
        os.write(write_end, text.encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        text = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0
    return text


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize(
    "act", ["stop_server", "get_server_info", "check_server_health", "raise_if_exited", "state", "start_server"]
)
def test_a_forked_child_cannot_use_the_parents_server(manager: ServerManager, act: str) -> None:
    start(manager)

    def use() -> object:
        if act == "start_server":
            start(manager)
        found = getattr(manager, act)
        return found() if callable(found) else found

    text = in_forked_child(use)
    assert text.startswith("ServerError: this server belongs to the process that this one was forked from")
    assert manager.check_server_health()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_that_collects_its_garbage_leaves_the_server_alone(manager: ServerManager) -> None:
    start(manager)
    holder = [manager]

    def collect() -> str:
        run = holder[0]._run
        assert run is not None
        pipe = run.child._pipe
        holder.clear()
        gc.collect()
        return str(pipe)

    assert in_forked_child(collect) == "-1"
    assert manager.check_server_health()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_may_start_a_server_of_its_own(manager: ServerManager) -> None:
    start(manager)

    def start_another() -> str:
        with ServerManager() as own:
            start(own)
            return str(own.check_server_health())

    assert in_forked_child(start_another) == "True"
    assert manager.check_server_health()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_workers_forked_by_multiprocessing_come_and_go_without_harm(manager: ServerManager) -> None:
    start(manager)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]
    assert manager.check_server_health()


def test_a_forked_child_that_ends_normally_leaves_the_server_alone(guard: Path) -> None:
    program = """
        if os.fork() == 0:
            sys.exit(0)
        os.wait()
        print(int(manager.check_server_health()), flush=True)
    """
    assert run_python(program, guard)[2] == 1


def test_the_parents_death_is_not_hidden_by_a_forked_child_that_lives_on(guard: Path) -> None:
    program = """
        import time
        child = os.fork()
        if child == 0:
            os.close(1)
            os.close(2)
            time.sleep(3600)
            os._exit(0)
        print(child, flush=True)
        os.kill(os.getpid(), 9)
    """
    guard_pid, server, child = run_python(program, guard, status=-9)
    with killed_at_the_end(child):
        wait_until_gone(guard_pid, server)
        assert is_alive(child)


def test_verbose_logs_every_line(manager: ServerManager, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="llcuda.server"):
        start(manager, verbose=True)
        manager.stop_server()
    assert [record.getMessage() for record in caplog.records] == list(manager.log)
    assert any("listening on" in record.getMessage() for record in caplog.records)


def test_nothing_is_logged_without_verbose(manager: ServerManager, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        start(manager)
    assert caplog.records == []


def test_a_hundred_starts_and_stops_leave_nothing_open(manager: ServerManager) -> None:
    start(manager)
    manager.stop_server()
    before = open_descriptors()
    threads = threading.active_count()
    for _ in range(20):
        start(manager)
        manager.stop_server()
    assert open_descriptors() == before
    wait_until(lambda: threading.active_count() == threads)


@pytest.mark.parametrize("spare", range(5))
def test_too_few_descriptors_are_an_error_and_not_a_leak(manager: ServerManager, spare: int) -> None:
    start(manager)  # so that everything is imported
    manager.stop_server()
    before = open_descriptors()
    free = (number for number in count() if not Path(f"/proc/self/fd/{number}").exists())
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(islice(free, spare, None)), limits[1]))
    try:
        with pytest.raises((ServerError, OSError)):
            start(manager)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert manager.state == "stopped"
    assert open_descriptors() == before
    assert not children_of(os.getpid())


def test_every_fault_of_the_stand_in_is_used_here() -> None:
    text = Path(__file__).read_text()
    assert [fault for fault in FAULTS if fault not in text] == []


def test_the_first_child_of_a_process_is_found() -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as sleeper:
        assert find_child(os.getpid()) in children_of(os.getpid())
        assert find_child(sleeper.pid) is None
        sleeper.kill()
    assert find_child(2**22 + 1) is None


def test_progress_is_what_a_process_reads_and_keeps() -> None:
    before = measure_progress(os.getpid())
    Path(__file__).read_bytes()
    after_reading = measure_progress(os.getpid())
    assert after_reading[0] > before[0]
    with mmap.mmap(-1, 1 << 24) as kept:  # not from the heap, which may have room
        kept.write(bytes(1 << 24))
        assert measure_progress(os.getpid())[1] > after_reading[1]
    assert measure_progress(2**22 + 1) == (0, 0)
