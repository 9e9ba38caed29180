"""A gateway that runs is given a GPU backend: real installer, real llama-server, and the stand-in GPU."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from llcuda.errors import ServerExitedError
from llcuda.fleet.processes.replica import Replica
from llcuda.gateway import GatewayConfig, KeyConfig, ModelConfig
from llcuda.gateway.admin import upgrade
from llcuda.gateway.gateway import Gateway
from llcuda.installer import BinaryInstaller
from tests.inputs.bundles import LIBRARY
from tests.processes import wait_until
from tests.standins.hub_server import serve
from tests.upgrading import ADMIN, PATH, USER, find_plan, follow, headers, list_installers, post, write_backend

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROLLBACK = "/api/admin/rollback-gpu"
pytestmark = pytest.mark.usefixtures("upgradable")
KEYS = (KeyConfig("root", ADMIN, is_admin=True), KeyConfig("user", USER))
BODIES: list[Any] = [
    {}, [], {"consent": 1}, {"consent": "true"}, {"consent": False}, {"consent": True, "force": True},
]  # fmt: skip
STEPS = ["download", "unpack", "prove", "activate", "reload"]


@contextmanager
def gateway(source: Path | str, *, workers: int = 2, model: str = "demo") -> Iterator[Gateway]:
    served = ModelConfig("demo", model, workers=workers, slots=2)
    with Gateway(GatewayConfig(models=(served,), port=0, keys=KEYS, gpu_bundle=source)) as running:
        yield running


def ask(url: str) -> str:
    body = {"messages": [{"role": "user", "content": "What is 2+2?"}], "temperature": 0}
    answer = httpx.post(
        f"{url}/v1/chat/completions", json=body, headers=headers(USER), timeout=60, trust_env=False
    )
    return str(answer.json()["choices"][0]["message"]["content"]) if answer.status_code == 200 else answer.text


@contextmanager
def asking(url: str) -> Iterator[list[str]]:
    """Ask again and again, two at a time, until the block ends; the list has the answers."""
    answers: list[str] = []
    end = threading.Event()

    def keep_asking() -> None:
        while not end.wait(0.02):
            answers.append(ask(url))

    threads = [threading.Thread(target=keep_asking) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        end.set()
        for thread in threads:
            thread.join()


def pids(running: Gateway) -> list[int | None]:
    assert running._running is not None
    return [replica.pid for replica in running._running.models["demo"].fleet.replicas]


def devices_of(running: Gateway) -> set[Any]:
    assert running._running is not None
    reports = [replica.device_report for replica in running._running.models["demo"].fleet.replicas]
    return {report and report.device for report in reports}


def is_idle(running: Gateway) -> bool:
    return find_plan(running.url)["running"] is False


@pytest.mark.parametrize("kind", ["local", "web"])
def test_an_upgrade_replaces_the_workers_without_losing_a_request_and_can_be_taken_back(
    bundle: Path, kind: str
) -> None:
    with serve() as server:
        server.plain.update({path.name: path.read_bytes() for path in bundle.parent.iterdir()})
        source = str(bundle) if kind == "local" else f"{server.url}/plain"
        with gateway(source) as running, asking(running.url) as answers:
            before = pids(running)
            plan = find_plan(running.url)
            assert (plan["possible"], plan["reason"], plan["backend"]) == (True, None, "cuda12")
            assert plan["download_bytes"] == (0 if kind == "local" else bundle.stat().st_size)
            assert (plan["installed"], plan["running"]) == (None, False)
            events = list(follow(running.url))
            steps = list(dict.fromkeys(event["step"] for event in events))
            assert [step for step in steps if step != "download"] == [*STEPS[1:], "done"]
            assert ("download" in steps) is (kind == "web")
            result = events[-1]["result"]
            assert result["installed"]["proof"]["gpus"] == ["Tesla T4"]
            assert [worker["device"]["device"] for worker in result["models"][0]["workers"]] == ["cuda", "cuda"]
            assert devices_of(running) == {"cuda"}
            assert not set(pids(running)) & set(before)
            plan = find_plan(running.url)
            assert (plan["possible"], plan["installed"]["backend"]) == (False, "cuda12")
            assert "installed already" in plan["reason"]
            *_, last = follow(running.url, ROLLBACK)
            assert (last["step"], last["result"]["installed"]) == ("done", None)
            assert devices_of(running) == {"cpu"}
        assert set(answers) == {"2 + 2 = 4."}
        assert len(answers) > 10


def test_nothing_to_go_back_to_is_a_failure_that_changes_nothing(bundle: Path) -> None:
    with gateway(bundle, workers=1) as running:
        before = pids(running)
        (_, last) = follow(running.url, ROLLBACK)
        assert last["step"] == "failed"
        assert "nothing to go back to" in last["message"]
        assert last["rolled_back"] is False
        assert pids(running) == before


@pytest.mark.parametrize("name", ["undefined", "null"])
def test_a_backend_that_does_not_work_leaves_the_workers_alone(
    tmp_path: Path, compiled: Path, binaries: Path, *, name: str
) -> None:
    bad = write_backend(tmp_path / "bad", compiled / name / LIBRARY, binaries=binaries)
    with gateway(bad, workers=1) as running:
        before = pids(running)
        *_, last = follow(running.url)
        assert (last["step"], last["rolled_back"]) == ("failed", False)
        assert last["message"]
        assert pids(running) == before
        assert ask(running.url) == "2 + 2 = 4."
        assert find_plan(running.url)["installed"] is None


def test_a_bundle_with_other_bytes_than_announced_is_refused(bundle: Path) -> None:
    bundle.write_bytes(bundle.read_bytes()[:-1] + b"x")
    with gateway(bundle.parent, workers=1) as running:
        before = pids(running)
        *_, last = follow(running.url)
        assert last["step"] == "failed"
        assert "sha256" in last["message"]
        assert pids(running) == before
    assert BinaryInstaller().list_installed() == ()


def test_new_workers_that_do_not_start_are_taken_back(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = Replica.start, []

    async def fail_at_the_second_with_a_gpu(self: Replica) -> None:
        if self.load.placement.backend is not None:
            started.append(self)
            if len(started) == 2:
                raise ServerExitedError("the second one", returncode=1)
        await start(self)

    with gateway(bundle) as running, asking(running.url) as answers:
        before = pids(running)
        monkeypatch.setattr(Replica, "start", fail_at_the_second_with_a_gpu)
        *_, last = follow(running.url)
        assert (last["step"], last["rolled_back"]) == ("failed", True)
        assert len(started) == 2
        assert devices_of(running) == {"cpu"}
        assert len(pids(running)) == len(before)
        assert find_plan(running.url)["installed"] is None
    assert set(answers) == {"2 + 2 = 4."}


def test_a_model_that_is_gone_by_then_takes_the_install_back_and_the_old_workers_go_on(
    tmp_path: Path, bundle: Path, demo_model: Path
) -> None:
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(demo_model.read_bytes())
    with gateway(bundle, workers=1, model=str(copy)) as running:
        before = pids(running)
        copy.unlink()
        *_, last = follow(running.url)
        assert (last["step"], last["rolled_back"]) == ("failed", True)
        assert "copy.gguf" in last["message"]
        assert pids(running) == before
        assert ask(running.url) == "2 + 2 = 4."
    assert BinaryInstaller().list_installed() == ()


def test_what_is_no_consent_changes_nothing(bundle: Path) -> None:
    with gateway(bundle, workers=1) as running:
        for body in BODIES:
            for path in (PATH, ROLLBACK):
                answer = post(running.url, path, body=body)
                assert answer.status_code == 400, body
                assert "consent" in answer.json()["error"]["message"]
        for path in (PATH, ROLLBACK):
            assert post(running.url, path, key=USER).status_code == 403
        assert httpx.get(running.url + PATH, headers=headers(USER), trust_env=False).status_code == 403
        assert find_plan(running.url)["running"] is False
    assert BinaryInstaller().list_installed() == ()


def test_there_is_one_change_at_a_time_and_it_goes_on_without_its_client(bundle: Path) -> None:
    with serve() as server:
        server.plain.update({path.name: path.read_bytes() for path in bundle.parent.iterdir()})
        with gateway(f"{server.url}/plain", workers=1) as running:
            find_plan(running.url)  # with the index: what stalls after it is the bundle
            events = follow(running.url)
            next(events)
            for path in (PATH, ROLLBACK):
                answer = post(running.url, path)
                assert (answer.status_code, answer.json()["error"]["code"]) == (409, "upgrade_under_way")
            events.close()
            plan = find_plan(running.url)
            assert (plan["running"], plan["possible"]) == (True, False)
            wait_until(lambda: is_idle(running), timeout=60)
            assert devices_of(running) == {"cuda"}
            assert find_plan(running.url)["installed"]["backend"] == "cuda12"


def test_an_installer_that_cannot_be_started_is_a_failure(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llcuda.gateway.admin.install_process.make_command", lambda *_: ["/nowhere/python"])
    with gateway(bundle, workers=1) as running:
        plan = find_plan(running.url)
        assert (plan["possible"], "cannot be started" in plan["reason"]) == (False, True)
        (last,) = follow(running.url)
        assert (last["step"], last["rolled_back"]) == ("failed", False)


def test_a_password_in_the_address_is_shown_to_nobody(bundle: Path) -> None:
    with serve() as server:
        server.plain.update({path.name: path.read_bytes() for path in bundle.parent.iterdir()})
        source = f"{server.url}/plain".replace("//", "//me:secret@")
        with gateway(source, workers=1) as running:
            said = [str(find_plan(running.url)), *map(str, follow(running.url)), str(find_plan(running.url))]
    assert "secret" not in "".join(said)


def test_a_plan_that_takes_too_long_is_given_up(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrade, "_PLAN_TIMEOUT", 0.5)
    with serve() as server:
        server.plain.update({path.name: path.read_bytes() for path in bundle.parent.iterdir()})
        server.faults.stall_after, server.faults.stalls = 0, 1
        with gateway(f"{server.url}/plain", workers=1) as running:
            assert "did not answer within 0.5 seconds" in find_plan(running.url)["reason"]
            assert list_installers(os.getpid()) == []


def test_with_a_llama_server_of_ones_own_nothing_is_installed(
    tmp_path: Path, bundle: Path, binaries: Path, *, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "llama-server"
    own.write_text(f'#!/bin/sh\nexec {binaries / "llama-server"} "$@"\n')
    own.chmod(0o755)
    monkeypatch.setenv("LLAMA_SERVER_PATH", str(own))
    with gateway(bundle, workers=1) as running:
        plan = find_plan(running.url)
        assert plan["possible"] is False
        assert plan["reason"].startswith("The llama-server in use is one of your own")
        *_, last = follow(running.url)
        assert (last["step"], last["rolled_back"]) == ("failed", False)
        assert "one of your own" in last["message"]
    assert BinaryInstaller().list_installed() == ()
