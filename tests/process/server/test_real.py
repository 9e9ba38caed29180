"""ServerManager with the real llama-server: what it can do, what it refuses, and how it fails."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llcuda.client import InferenceClient
from llcuda.errors import LlcudaError, OutOfMemoryError, PortInUseError
from llcuda.server import ServerManager, arguments
from tests.broken import BROKEN, TWELVE, Broken
from tests.processes import PATIENCE, children_of, is_gone, wait_until, wait_until_gone
from tests.standins.fake_llama_server import PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def manager(binaries: Path, guard: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerManager]:
    monkeypatch.setenv("LLAMA_SERVER_PATH", str(binaries / "llama-server"))
    monkeypatch.setattr("llcuda.server.manager.find_guard", lambda: guard)
    with ServerManager() as running:
        yield running


def ask(manager: ServerManager, path: str, **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", manager.port, timeout=PATIENCE)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        response.read()
        return response
    finally:
        connection.close()


def test_it_becomes_ready_answers_and_stops(manager: ServerManager, tiny_model: Path) -> None:
    manager.start_server(tiny_model)
    assert manager.state == "ready"
    assert manager.check_server_health()
    info = manager.get_server_info()
    assert info["model_path"] == str(tiny_model)
    assert info["total_slots"] == 1
    pids = [manager.pid or 0, manager.server_pid or 0]
    manager.stop_server()
    assert manager.returncode == 0
    assert all(is_gone(pid) for pid in pids)


def test_connections_that_come_at_once_do_not_wait_for_each_other(manager: ServerManager, tiny_model: Path) -> None:
    manager.start_server(tiny_model)
    opened = [socket.create_connection(("127.0.0.1", manager.port), timeout=PATIENCE) for _ in range(25)]
    try:
        for one in opened:
            one.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert all(one.recv(1 << 16).startswith(b"HTTP/1.1 200") for one in opened)
        # llama-server ends a connection that rests for five seconds: none had to, for another to be answered.
        for one in opened:
            one.setblocking(False)
            with pytest.raises(BlockingIOError):
                one.recv(1)
    finally:
        for one in opened:
            one.close()


def test_nobody_without_the_key_learns_anything(manager: ServerManager, tiny_model: Path) -> None:
    manager.start_server(tiny_model)
    with_key = {"Authorization": f"Bearer {manager.api_key}"}
    for path in ("/props", "/slots", "/metrics", "/models", "/lora-adapters"):
        assert ask(manager, path, **with_key).status == 200, path
        if path != "/models":  # public, as in llama-server's own list
            assert ask(manager, path).status == 401, path
            assert ask(manager, path, Authorization="Bearer wrong").status == 401, path
    assert ask(manager, "/health").status == 200


def test_no_web_page_may_read_its_answers(manager: ServerManager, tiny_model: Path) -> None:
    manager.start_server(tiny_model)
    response = ask(manager, "/health", Origin="https://evil.example")
    assert response.headers["Access-Control-Allow-Origin"] in {None, ""}
    assert ask(manager, "/", Authorization=f"Bearer {manager.api_key}").status == 404


def test_it_listens_on_loopback_only(manager: ServerManager, tiny_model: Path) -> None:
    manager.start_server(tiny_model)
    rows = [line.split() for line in Path(f"/proc/{manager.server_pid}/net/tcp").read_text().splitlines()[1:]]
    local = [row[1] for row in rows if int(row[1].rpartition(":")[2], 16) == manager.port and row[3] == "0A"]
    assert local == [f"0100007F:{manager.port:04X}"]


def test_no_environment_variable_of_the_user_changes_it(
    manager: ServerManager, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_ARG_PORT", "1")
    monkeypatch.setenv("LLAMA_ARG_CTX_SIZE", "64")
    monkeypatch.setenv("LLAMA_API_KEY", "the-users-own")
    monkeypatch.setenv("AIP_MODE", "PREDICTION")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    manager.start_server(tiny_model)
    assert manager.api_key != "the-users-own"
    assert manager.get_server_info()["default_generation_settings"]["n_ctx"] == 256
    assert ask(manager, "/props", Authorization="Bearer the-users-own").status == 401


def test_options_reach_it_under_its_own_names(manager: ServerManager, tiny_model: Path) -> None:
    manager.start_server(
        tiny_model,
        ctx_size=128,
        n_parallel=2,
        alias="one",
        metrics=False,
        flash_attn=False,
        warmup=False,
        log_verbosity=4,
    )
    info = manager.get_server_info()
    assert (info["total_slots"], info["model_alias"]) == (2, "one")
    assert info["default_generation_settings"]["n_ctx"] == 64 * 1 or info["default_generation_settings"]["n_ctx"] == 256
    assert ask(manager, "/metrics", Authorization=f"Bearer {manager.api_key}").status != 200
    assert any("buffer size" in line for line in manager.log)


def test_a_relative_model_path_is_the_callers(
    manager: ServerManager, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_model.parent)
    manager.start_server(tiny_model.name)
    assert manager.get_server_info()["model_path"] == str(tiny_model)


def test_an_explicit_port_can_be_had_again_at_once(manager: ServerManager, tiny_model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for _ in range(3):
        manager.start_server(tiny_model, port=port)
        assert manager.port == port
        manager.get_server_info()
        manager.stop_server()


def test_a_healthy_stranger_is_never_taken_for_ours(manager: ServerManager, tiny_model: Path) -> None:
    with ServerManager() as stranger:
        stranger.start_server(tiny_model)
        with pytest.raises(PortInUseError) as caught:
            manager.start_server(tiny_model, port=stranger.port)
        assert caught.value.port == stranger.port
        assert stranger.check_server_health()
    assert manager.state == "stopped"


def test_a_port_that_is_taken_after_the_check_is_reported_by_the_server(
    manager: ServerManager, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llcuda.server.manager.check_port_free", lambda *_: None)
    with socket.create_server(("127.0.0.1", 0)) as stranger, pytest.raises(PortInUseError) as caught:
        manager.start_server(tiny_model, port=stranger.getsockname()[1])
    assert caught.value.log_tail


def test_a_crash_writes_no_core_and_waits_for_no_debugger(manager: ServerManager, tiny_model: Path) -> None:
    manager.start_server(tiny_model)
    server = manager.server_pid or 0
    os.kill(server, signal.SIGABRT)
    wait_until_gone(server)
    wait_until(lambda: manager.state == "exited")
    assert manager.returncode == -signal.SIGABRT
    assert not list(Path(manager.command[0]).parent.glob("core*"))


@pytest.mark.parametrize("word", ["initializing", "loading model", "model loaded", "listening on"])
def test_a_stop_at_any_line_of_the_start_is_a_stop(
    *, manager: ServerManager, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    seen = threading.Event()
    monkeypatch.setattr("llcuda.server.manager._log_line", lambda: lambda line: seen.set() if word in line else None)

    def stop_at_the_line() -> None:
        assert seen.wait(PATIENCE)
        manager.stop_server()

    stopper = threading.Thread(target=stop_at_the_line)
    stopper.start()
    try:
        manager.start_server(tiny_model, verbose=True)
    except LlcudaError as error:
        assert "stopped while it was starting" in str(error)  # noqa: PT017 - both are right
    stopper.join(PATIENCE)
    assert manager.state == "stopped"
    assert not children_of(os.getpid())


def provoke(
    manager: ServerManager, case: Broken, *, binaries: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> LlcudaError:
    model = folder / "model.gguf"
    case.model(model)
    monkeypatch.setenv("LLAMA_SERVER_PATH", str(case.server(binaries, folder)))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1] if case.needs_port else None
        with pytest.raises(LlcudaError) as caught:
            # So it is the server's end that it tells, and no timeout.
            manager.start_server(model, port=port, **{"stall_timeout": 3600, **case.options})
    return caught.value


def test_there_are_twelve_broken_inputs() -> None:
    assert len(TWELVE) == 12


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.name)
def test_a_broken_input_is_its_own_error_with_a_remedy(
    *, manager: ServerManager, case: Broken, binaries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = provoke(manager, case, binaries=binaries, folder=tmp_path, monkeypatch=monkeypatch)
    assert type(error) is case.error
    assert case.says in str(error)
    assert case.remedy in error.hint
    assert manager.state == "stopped"
    assert not children_of(os.getpid())


def test_out_of_memory_comes_with_what_the_server_said(
    *, manager: ServerManager, binaries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = next(case for case in BROKEN if case.name == "no_memory")
    error = provoke(manager, case, binaries=binaries, folder=tmp_path, monkeypatch=monkeypatch)
    assert isinstance(error, OutOfMemoryError)
    assert len(error.log_tail) > 5


@pytest.fixture(scope="module")
def helped(binaries: Path) -> str:
    return subprocess.check_output([str(binaries / "llama-server"), "--help"], text=True, timeout=60)


def parse_help(text: str) -> dict[str, str]:
    """Return each long option, with _ for -, and what its line says that it takes."""
    found = {}
    for line in text.splitlines():
        if line.startswith("-") and not line.startswith("-----"):
            names = re.match(r"((?:-[\w.-]+, +)*-[\w.-]+) ?(.*)", line)
            assert names, line
            takes = names[2].split("  ")[0].strip()
            for name in re.findall(r"--([\w.-]+)", names[1]):
                found[name.replace("-", "_")] = takes
    return found


def test_the_tables_of_options_agree_with_the_servers_help(helped: str) -> None:
    options = parse_help(helped)
    assert len(options) > 200
    on_off = {name for name, takes in options.items() if takes.startswith("[on|off")} - {"log_colors"}
    assert on_off == arguments._ON_OFF & set(options)
    files = {"FNAME", "FILE", "PATH", "DIR", "JINJA_TEMPLATE_FILE"}
    paths = {name for name, takes in options.items() if takes in files and name not in arguments._RESERVED}
    assert paths == set(arguments._PATHS)
    assert {name for name, takes in options.items() if takes == "FNAME:SCALE,..."} == set(arguments._SCALED_PATHS)


def test_every_flag_without_a_negative_form_is_known(helped: str) -> None:
    options = parse_help(helped)
    flags = {name for name, takes in options.items() if not takes and not name.startswith("no_")}
    negatable = {name for name in flags if f"no_{name}" in options}
    alone = {name for name in flags - negatable - set(arguments._RESERVED) if not name.endswith(("_default", "_spec"))}
    assert alone - set(arguments._PLAIN) == set()
    assert {name for name in arguments._PLAIN if name not in options} == set()


def test_every_reserved_name_is_one_that_the_server_has(helped: str) -> None:
    options = parse_help(helped)
    assert {name for name in arguments._RESERVED if name not in options} == set()


def test_the_stand_in_prints_what_the_real_one_prints(manager: ServerManager, tiny_model: Path) -> None:
    manager.start_server(tiny_model)
    ready = next(line for line in manager.log if "listening on" in line)
    assert re.sub(r"^[\d.]+", "0", ready) == re.sub(r"^[\d.]+", "0", f"{PREFIX}listening on {manager.url}")
    first = next(line for line in manager.log if "initializing ..." in line)
    assert re.sub(r"^[\d.]+", "0", first) == re.sub(r"^[\d.]+", "0", f"{PREFIX}initializing ...")


def test_a_stopped_server_obeys_the_sigterm_that_it_got_meanwhile(manager: ServerManager, tiny_model: Path) -> None:
    manager.start_server(tiny_model)
    with InferenceClient(url=manager.url, api_key=manager.api_key) as client:
        client.complete("1", max_tokens=1)  # until its loop runs, llama-server can lose a SIGTERM
    server = manager.server_pid or 0
    os.kill(server, signal.SIGSTOP)
    os.kill(server, signal.SIGTERM)
    os.kill(server, signal.SIGCONT)
    wait_until(lambda: manager.state == "exited")
    assert manager.returncode == 0


def test_the_demo_model_is_served(manager: ServerManager, demo_model: Path) -> None:
    manager.start_server(demo_model)
    assert manager.check_server_health()


@pytest.mark.usefixtures("manager")
def test_many_threads_each_with_a_server_of_their_own(tiny_model: Path) -> None:
    def run(_: int) -> Any:
        with ServerManager() as own:
            own.start_server(tiny_model)
            return own.get_server_info()["model_path"]

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(run, range(8))) == {str(tiny_model)}
    assert not children_of(os.getpid())
