"""ServerManager and both clients on a Unix socket, with the real llama-server."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llcuda.client import AsyncInferenceClient, InferenceClient
from llcuda.engine import InferenceEngine
from llcuda.errors import ConnectionFailedError, ServerExitedError, UsageError
from llcuda.server import ServerManager
from tests.processes import PATIENCE, is_gone, killed_at_the_end, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def folder() -> Iterator[Path]:
    # pytest's own folders can be too long for a socket.
    with tempfile.TemporaryDirectory(prefix="llcuda-test-") as path:
        yield Path(path)


@pytest.fixture
def manager(binaries: Path, guard: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerManager]:
    monkeypatch.setenv("LLAMA_SERVER_PATH", str(binaries / "llama-server"))
    monkeypatch.setattr("llcuda.server.manager.find_guard", lambda: guard)
    with ServerManager() as running:
        yield running


def test_it_becomes_ready_answers_and_takes_its_socket_away(
    manager: ServerManager, tiny_model: Path, folder: Path
) -> None:
    path = folder / "x.sock"
    manager.start_server(tiny_model, host=str(path))
    assert manager.state == "ready"
    assert manager.url == f"unix:{path}"
    assert manager.check_server_health()
    assert manager.get_server_info()["model_path"] == str(tiny_model)
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    manager.stop_server()
    assert not path.exists()
    manager.start_server(tiny_model, host=str(path))
    assert manager.check_server_health()


def test_it_listens_nowhere_else(manager: ServerManager, tiny_model: Path, folder: Path) -> None:
    manager.start_server(tiny_model, host=str(folder / "x.sock"))
    inodes = {
        str(link.readlink()).removeprefix("socket:[").removesuffix("]")
        for link in Path(f"/proc/{manager.server_pid}/fd").iterdir()
    }
    for table in ("tcp", "tcp6"):
        rows = Path(f"/proc/{manager.server_pid}/net/{table}").read_text().splitlines()[1:]
        assert not inodes & {row.split()[9] for row in rows}


def test_a_socket_has_no_port(manager: ServerManager, tiny_model: Path, folder: Path) -> None:
    manager.start_server(tiny_model, host=str(folder / "x.sock"))
    with pytest.raises(UsageError, match="has no port"):
        _ = manager.port


@pytest.mark.parametrize("name", ["x.sock", "a, b.sock", "ü.sock"])
def test_both_clients_connect(*, manager: ServerManager, demo_model: Path, folder: Path, name: str) -> None:
    manager.start_server(demo_model, host=str(folder / name))

    async def ask() -> list[str]:
        async with AsyncInferenceClient(url=manager.url, api_key=manager.api_key) as client:
            return [(await client.infer("What is 2+2?", temperature=0)).text for _ in range(2)]

    with InferenceClient(url=manager.url, api_key=manager.api_key) as client:
        assert client.url == f"unix:{folder / name}"
        answers = [client.infer("What is 2+2?", temperature=0).text for _ in range(2)]
    assert answers == asyncio.run(ask())


def test_an_engine_can_listen_on_a_socket(folder: Path) -> None:
    with InferenceEngine() as engine:
        engine.load_model("demo", device="cpu", host=str(folder / "x.sock"))
        assert engine.url == f"unix:{folder / 'x.sock'}"
        assert engine.infer("What is 2+2?", temperature=0).text


def test_a_client_says_where_nobody_listens(folder: Path) -> None:
    with InferenceClient(url=f"unix:{folder}/none.sock") as client, pytest.raises(ConnectionFailedError) as caught:
        client.infer("1")
    assert caught.value.url == f"unix:{folder}/none.sock"

    async def ask() -> None:
        async with AsyncInferenceClient(url=f"unix:{folder}/none.sock") as client:
            await client.infer("1")

    with pytest.raises(ConnectionFailedError, match="No such file"):
        asyncio.run(ask())


def test_the_longest_path_is_served_and_a_longer_one_refused(
    manager: ServerManager, tiny_model: Path, folder: Path
) -> None:
    rest = 107 - len(f"{folder}/") - len(".sock")
    manager.start_server(tiny_model, host=f"{folder}/{'x' * rest}.sock")
    assert manager.check_server_health()
    manager.stop_server()
    with pytest.raises(UsageError, match="at most 107 bytes"):
        manager.start_server(tiny_model, host=f"{folder}/{'x' * (rest + 1)}.sock")


def leave_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))


def test_what_is_there_already_is_left_alone_and_named(manager: ServerManager, tiny_model: Path, folder: Path) -> None:
    path = folder / "x.sock"
    leave_socket(path)
    with pytest.raises(UsageError, match="left from a server that is gone") as caught:
        manager.start_server(tiny_model, host=str(path))
    assert f"rm '{path}'" in caught.value.hint
    path.unlink()
    path.write_text("mine")
    with pytest.raises(UsageError, match="not a socket"):
        manager.start_server(tiny_model, host=str(path))
    assert path.read_text() == "mine"


def test_another_servers_socket_is_left_alone(manager: ServerManager, tiny_model: Path, folder: Path) -> None:
    path = str(folder / "x.sock")
    with ServerManager() as other:
        other.start_server(tiny_model, host=path)
        with pytest.raises(UsageError, match="another server listens"):
            manager.start_server(tiny_model, host=path)
        assert other.check_server_health()
    assert manager.state == "stopped"


def test_a_path_that_is_taken_after_the_check_is_reported_by_the_server(
    *, manager: ServerManager, tiny_model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llcuda.server.listening.check_socket_path", lambda _: None)
    leave_socket(folder / "x.sock")
    with pytest.raises(UsageError, match="nothing can listen on") as caught:
        manager.start_server(tiny_model, host=str(folder / "x.sock"))
    assert caught.value.log_tail


@pytest.mark.parametrize(
    ("host", "says"),
    [("x.sock", "absolute path"), ("/no/such/folder/x.sock", "cannot hold a socket"), ("/tmp/a\n.sock", "absolute")],
)
def test_a_path_that_cannot_be_is_refused(*, manager: ServerManager, tiny_model: Path, host: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        manager.start_server(tiny_model, host=host)


@pytest.mark.parametrize("mode", [0o770, 0o777, 0o1777])
def test_a_folder_that_others_write_to_is_refused(
    *, manager: ServerManager, tiny_model: Path, folder: Path, mode: int
) -> None:
    shared = folder / "shared"
    shared.mkdir()
    shared.chmod(mode)
    with pytest.raises(UsageError, match="others can write to it"):
        manager.start_server(tiny_model, host=str(shared / "x.sock"))


def test_a_port_and_a_socket_contradict_each_other(manager: ServerManager, tiny_model: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match="is a Unix socket"):
        manager.start_server(tiny_model, host=str(folder / "x.sock"), port=8080)


def test_the_socket_is_gone_after_a_crash_and_whoever_waits_is_told(
    manager: ServerManager, tiny_model: Path, folder: Path
) -> None:
    told = threading.Event()
    with ServerManager(on_exit=told.set) as watched:
        watched.start_server(tiny_model, host=str(folder / "x.sock"))
        os.kill(watched.server_pid or 0, signal.SIGKILL)
        assert told.wait(PATIENCE)
        assert watched.state == "exited"
        assert not (folder / "x.sock").exists()
        with pytest.raises(ServerExitedError):
            watched.raise_if_exited()
    assert manager.state == "stopped"


OWNER = """
import sys, time
from llcuda.server import ServerManager
manager = ServerManager()
manager.start_server(sys.argv[1], host=sys.argv[2])
print(manager.server_pid, flush=True)
time.sleep(3600)
"""


def test_a_killed_owner_leaves_a_socket_that_nobody_listens_on(
    manager: ServerManager, tiny_model: Path, folder: Path
) -> None:
    path = folder / "x.sock"
    command = [sys.executable, "-c", OWNER, str(tiny_model), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout
        server = int(owner.stdout.readline())
        with killed_at_the_end(server):
            owner.kill()
            owner.wait()
            wait_until(lambda: is_gone(server))
    with pytest.raises(UsageError, match="left from a server that is gone"):
        manager.start_server(tiny_model, host=str(path))
