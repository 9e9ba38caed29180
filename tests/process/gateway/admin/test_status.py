"""The page's addresses of a real gateway: what they say of real workers, and models that move while they are asked."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from llcuda.gateway import GatewayConfig, KeyConfig, ModelConfig
from llcuda.gateway.gateway import Gateway
from tests.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ADMIN, USER = "sk-admin", "sk-user"
KEYS = (KeyConfig("root", ADMIN, is_admin=True), KeyConfig("user", USER))
QUESTION = {"messages": [{"role": "user", "content": "What is 2+2?"}], "temperature": 0}


class Asker:
    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        headers = {"Authorization": f"Bearer {ADMIN}"}
        self.http = httpx.Client(base_url=gateway.url, headers=headers, timeout=60, trust_env=False)

    def status(self) -> Any:
        answer = self.http.get("/api/status")
        assert answer.status_code == 200
        return answer.json()

    def model(self) -> Any:
        return self.status()["models"][0]

    def change(self, **fields: Any) -> httpx.Response:
        return self.http.post("/api/admin/offload", json={"model": "demo", **fields})

    def finish(self) -> Any:
        """Return the change when it is over."""
        wait_until(lambda: self.model()["offload"]["change"]["state"] != "running")
        return self.model()["offload"]["change"]

    def pids(self) -> set[int]:
        running = self.gateway._running
        assert running is not None
        return {replica.pid for replica in running.models["demo"].fleet.replicas if replica.pid}

    def chat(self, **more: Any) -> httpx.Response:
        return self.http.post("/v1/chat/completions", json={**QUESTION, **more})


@contextmanager
def serving(*models: ModelConfig, keys: tuple[KeyConfig, ...] = KEYS) -> Iterator[Asker]:
    with Gateway(GatewayConfig(models=models or (ModelConfig("demo", "demo", slots=2),), port=0, keys=keys)) as gateway:
        asker = Asker(gateway)
        try:
            yield asker
        finally:
            asker.http.close()


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the GPUs of this machine, where it has any."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def own_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, binaries: Path) -> None:
    """Take a llama-server of the user's own, which chooses its devices itself; here it finds none."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    script = tmp_path / "llama-server"
    script.write_text(f'#!/bin/sh\nexec {binaries / "llama-server"} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("LLAMA_SERVER_PATH", str(script))


@pytest.fixture(scope="module")
def asker() -> Iterator[Asker]:
    with serving(ModelConfig("demo", "demo", workers=2, slots=2, device="cpu")) as asker:
        yield asker


class TestThePage:
    def test_it_needs_no_key_and_holds_no_data(self, asker: Asker) -> None:
        answer = asker.http.get("/", headers={"Authorization": ""})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert answer.headers["content-security-policy"].startswith("default-src 'self';")
        assert "demo" not in answer.text
        again = asker.http.get("/", headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        # The connection is still in step.
        assert asker.http.get("/page/page.css").headers["content-type"] == "text/css; charset=utf-8"

    def test_it_is_served_to_whom_the_gateway_is_and_only_read(self, asker: Asker) -> None:
        assert asker.http.get("/", headers={"Host": "evil.example"}).status_code == 421
        assert asker.http.get("/", headers={"Origin": "https://evil.example"}).status_code == 403
        assert asker.http.post("/").status_code == 405
        assert asker.http.get("/page/static.py").status_code == 404


class TestTheStatus:
    def test_it_needs_a_key_and_says_whose_it_is(self, asker: Asker) -> None:
        assert asker.http.get("/api/status", headers={"Authorization": ""}).status_code == 401
        user = asker.http.get("/api/status", headers={"Authorization": f"Bearer {USER}"})
        assert user.json()["caller"] == {"name": "user", "is_admin": False}
        assert asker.status()["caller"] == {"name": "root", "is_admin": True}
        assert user.headers["cache-control"] == "no-store"

    def test_it_describes_every_worker(self, asker: Asker) -> None:
        model = asker.model()
        assert (model["name"], model["waiting"], model["offload"]["choice"]) == ("demo", 0, "cpu")
        assert [worker["name"] for worker in model["workers"]] == ["demo/0", "demo/1"]
        for worker in model["workers"]:
            assert (worker["state"], worker["slots"], worker["busy"]) == ("ready", 2, 0)
            assert (worker["device"]["device"], worker["device"]["layers_on_gpu"]) == ("cpu", 0)
            assert worker["device"]["reason"] == "Using the CPU, as was asked for."
            assert worker["memory_bytes"] > 5 << 20
        assert asker.status()["memory"]["gateway_bytes"] > 5 << 20

    def test_answers_show_in_the_figures_and_the_status_itself_does_not(self, asker: Asker) -> None:
        before = asker.status()
        assert asker.chat().status_code == 200
        assert asker.chat(temperature=-1).status_code == 400
        answered = sum(before["counted"]["requests"].values())
        wait_until(lambda: sum(asker.status()["counted"]["requests"].values()) > answered)
        counted = asker.status()["counted"]
        assert counted["requests"]["200"] == before["counted"]["requests"].get("200", 0) + 1
        assert counted["rejected"]["invalid_value"] == before["counted"]["rejected"].get("invalid_value", 0) + 1
        assert counted["completion_tokens"] > before["counted"].get("completion_tokens", 0)
        recent = asker.status()["recent"]
        assert recent["first_token_p50_ms"] > 0
        assert max(recent["seconds"]["tokens_per_second"]) > 0

    def test_a_stream_is_seen_while_it_runs(self, asker: Asker) -> None:
        # Ten megabytes: it does not end before it is read.
        fields = {"prompt": "What is 2+2?", "n_predict": 900, "ignore_eos": True, "n_probs": 100, "stream": True}
        made = asker.status()["recent"]["tokens"]
        with asker.http.stream("POST", "/completion", json=fields) as answer:
            lines = answer.iter_lines()
            next(lines)
            assert sum(worker["busy"] for worker in asker.model()["workers"]) == 1
            wait_until(lambda: asker.status()["recent"]["seconds"]["busy"][-1] == 1)
            assert asker.status()["recent"]["tokens"] > made
        wait_until(lambda: not any(worker["busy"] for worker in asker.model()["workers"]))


@contextmanager
def under_load(asker: Asker) -> Iterator[list[int]]:
    stop, statuses = threading.Event(), list[int]()

    def ask() -> None:
        while not stop.is_set():
            statuses.append(asker.chat().status_code)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        stop.set()
        for thread in threads:
            thread.join()


class TestAnotherPlace:
    def test_a_model_moves_while_it_is_asked_and_no_request_is_lost(self) -> None:
        with serving(ModelConfig("demo", "demo", workers=2, slots=2)) as asker:
            before = asker.pids()
            with under_load(asker) as statuses:
                answer = asker.change(offload="cpu")
                assert (answer.status_code, answer.json()["change"]["state"]) == (202, "running")
                assert asker.finish()["state"] == "done"
                seen = len(statuses)
                wait_until(lambda: len(statuses) > seen + 10)
            assert set(statuses) == {200}
            assert len(before | asker.pids()) == 4
            model = asker.model()
            assert model["offload"]["choice"] == "cpu"
            assert {worker["device"]["asked"] for worker in model["workers"]} == {"cpu"}
            # It holds on: a reload does not bring the old place back.
            asker.gateway.reload()
            assert {worker["device"]["asked"] for worker in asker.model()["workers"]} == {"cpu"}

    @pytest.mark.usefixtures("no_gpu")
    @pytest.mark.parametrize("choice", [{"offload": "full"}, {"offload": "mixed", "gpu_layers": 2}])
    def test_where_there_is_no_gpu_it_is_refused_before_anything_is_restarted(self, choice: dict[str, Any]) -> None:
        with serving() as asker:
            before = asker.pids()
            answer = asker.change(**choice)
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "device_unavailable")
            assert "GPU" in answer.json()["error"]["message"]
            assert asker.model()["offload"] == {"choice": "auto", "gpu_layers": None, "layers": 4, "change": None}
            assert asker.pids() == before

    @pytest.mark.usefixtures("own_server")
    def test_what_does_not_work_is_told_and_the_workers_before_go_on(self) -> None:
        with serving() as asker:
            before = asker.pids()
            with under_load(asker) as statuses:
                assert asker.change(offload="mixed", gpu_layers=2).status_code == 202
                change = asker.finish()
            assert set(statuses) == {200}
            assert (change["state"], change["offload"], change["gpu_layers"]) == ("failed", "mixed", 2)
            assert change["message"].startswith("The GPU is not used.")
            assert asker.pids() == before
            assert asker.model()["offload"]["choice"] == "auto"
            user = asker.http.get("/api/status", headers={"Authorization": f"Bearer {USER}"}).json()
            assert user["models"][0]["offload"]["change"]["message"] is None

    @pytest.mark.usefixtures("own_server")
    def test_workers_that_had_to_make_room_are_started_again_as_before(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("llcuda.fleet.fleet._has_room", lambda _replica: False)
        with serving() as asker:
            before = asker.pids()
            assert asker.change(offload="full").status_code == 202
            assert asker.finish()["state"] == "failed"
            assert asker.chat().status_code == 200
            assert not asker.pids() & before
            assert [worker["device"]["asked"] for worker in asker.model()["workers"]] == ["auto"]

    def test_a_model_that_is_not_loaded_starts_where_it_was_put(self) -> None:
        with serving(ModelConfig("demo", "demo", on_demand=True)) as asker:
            assert asker.change(offload="cpu").status_code == 202
            assert asker.finish()["state"] == "done"
            assert asker.model()["workers"] == []
            assert asker.chat().status_code == 200
            assert [worker["device"]["asked"] for worker in asker.model()["workers"]] == ["cpu"]

    def test_one_change_at_a_time(self) -> None:
        with serving() as asker:
            assert asker.change(offload="cpu").status_code == 202
            second = asker.change(offload="auto")
            assert (second.status_code, second.json()["error"]["code"]) == (409, "change_under_way")
            first = asker.finish()
            assert (first["number"], first["state"]) == (1, "done")
            assert asker.change(offload="auto").json()["change"]["number"] == 2

    @pytest.mark.parametrize(
        ("fields", "status", "code"),
        [
            ({"model": "other", "offload": "cpu"}, 404, "model_not_found"),
            ({"offload": "mixed", "gpu_layers": 5}, 400, "invalid_value"),
            ({"offload": "cpu", "restart": True}, 400, "unknown_field"),
        ],
    )
    def test_what_is_no_choice_changes_nothing(
        self, asker: Asker, *, fields: dict[str, Any], status: int, code: str
    ) -> None:
        before = asker.pids()
        answer = asker.change(**fields)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert asker.pids() == before

    def test_only_an_administrator_may(self, asker: Asker) -> None:
        body = {"model": "demo", "offload": "cpu"}
        user = asker.http.post("/api/admin/offload", json=body, headers={"Authorization": f"Bearer {USER}"})
        assert (user.status_code, user.json()["error"]["code"]) == (403, "admin_only")
        assert asker.http.get("/api/admin/offload").status_code == 405
        with serving(keys=()) as other:
            assert other.change(offload="cpu").status_code == 403
            assert other.status()["caller"] == {"name": "anyone", "is_admin": False}

    def test_a_gateway_that_ends_in_the_middle_of_a_change_leaves_nothing(self) -> None:
        with serving() as asker:
            assert asker.change(offload="cpu").status_code == 202
            asker.gateway.stop(grace=0.0)
