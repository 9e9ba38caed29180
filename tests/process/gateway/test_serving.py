"""A whole gateway in front of real llama-servers with the demo model, asked as its users ask."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from llcuda.errors import ModelNotFoundError, OutOfMemoryError, PortInUseError, ServerError
from llcuda.gateway import GatewayConfig, KeyConfig, Limits, ModelConfig
from llcuda.gateway.gateway import Gateway
from llcuda.gateway.http.routes import ALIASES, ROUTES
from llcuda.models.resolve import demo_path
from llcuda.native import binaries_dir
from tests.places import DOCS
from tests.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

ADMIN, USER = "sk-admin", "sk-user"
KEYS = (KeyConfig("admin", ADMIN, is_admin=True), KeyConfig("user", USER, max_in_flight=16))
LONG = {"prompt": "What is 2+2?", "n_predict": 900, "ignore_eos": True, "temperature": 0}
# Ten megabytes, more than the buffers on the way hold: it does not end before it is read.
ENDLESS = {**LONG, "n_probs": 100}


def config(*, workers: int = 1, slots: int = 4, **options: Any) -> GatewayConfig:
    limits = Limits(**options.pop("limits", {}))
    models = options.pop("models", (ModelConfig("demo", "demo", workers=workers, slots=slots),))
    return GatewayConfig(models=models, port=0, limits=limits, **options)


class Asker:
    """A client of one gateway."""

    def __init__(self, gateway: Gateway, *, key: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.gateway = gateway
        self.http = httpx.Client(base_url=gateway.url, headers=headers, timeout=60, trust_env=False)

    def chat(self, text: str = "What is 2+2?", **more: Any) -> httpx.Response:
        return self.http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": text}], **more})

    def stream(self, fields: dict[str, Any], path: str = "/completion") -> list[Any]:
        return list(self.events(fields, path))

    def events(self, fields: dict[str, Any], path: str = "/completion") -> Generator[Any, None, None]:
        with self.http.stream("POST", path, json={**fields, "stream": True}) as response:
            assert response.status_code == 200, response.read()
            for line in response.iter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    yield json.loads(line[6:])

    def metrics(self) -> dict[str, float]:
        text = self.http.get("/metrics").text
        return {
            f"{sample.name}{''.join(sorted(sample.labels.values()))}": sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@contextmanager
def serving(key: str | None = None, **options: Any) -> Iterator[Asker]:
    with Gateway(config(**options)) as gateway:
        asker = Asker(gateway, key=key)
        try:
            yield asker
        finally:
            asker.http.close()


def replicas(asker: Asker, model: str = "demo") -> Any:
    running = asker.gateway._running
    assert running is not None
    return running.models[model].fleet.replicas


def workers(asker: Asker, model: str = "demo") -> Any:
    running = asker.gateway._running
    assert running is not None
    return running.models[model].workers


@pytest.fixture(scope="module")
def asker() -> Iterator[Asker]:
    with serving(workers=2, slots=2, key=USER, keys=KEYS) as asker:
        yield asker


class TestWhatIsAnswered:
    def test_whole_and_streamed_answers_say_the_same(self, asker: Asker) -> None:
        whole = asker.chat(temperature=0).json()
        assert whole["choices"][0]["message"]["content"] == "2 + 2 = 4."
        assert (whole["object"], whole["model"]) == ("chat.completion", "demo")
        assert whole["usage"]["completion_tokens"] > 3
        body = {"messages": [{"role": "user", "content": "What is 2+2?"}], "temperature": 0}
        events = asker.stream(body, "/v1/chat/completions")
        pieces = [event["choices"][0]["delta"].get("content") or "" for event in events]
        assert "".join(pieces) == "2 + 2 = 4."
        assert len(pieces) > 5

    @pytest.mark.parametrize(
        ("path", "body", "expected"),
        [
            ("/v1/completions", {"prompt": "What is 2+2?", "max_tokens": 4}, "text_completion"),
            ("/completion", {"prompt": "What is 2+2?", "n_predict": 4}, "tokens_predicted"),
            ("/v1/responses", {"input": "What is 2+2?", "max_output_tokens": 20}, "output"),
            ("/v1/messages", {"max_tokens": 20, "messages": [{"role": "user", "content": "x"}]}, "stop_reason"),
            ("/tokenize", {"content": "hello"}, "tokens"),
            ("/detokenize", {"tokens": [1, 2]}, "content"),
            ("/apply-template", {"messages": [{"role": "user", "content": "x"}]}, "prompt"),
            ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "x"}]}, "input_tokens"),
        ],
    )  # fmt: skip
    def test_every_kind_of_request_is_passed_on(self, asker: Asker, *, path: str, body: Any, expected: str) -> None:
        answer = asker.http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        assert expected in answer.text

    def test_what_the_model_cannot_do_is_its_own_error_and_no_worker_suffers(self, asker: Asker) -> None:
        answer = asker.http.post("/v1/embeddings", json={"input": "hello"})
        assert answer.status_code >= 400
        assert answer.json()["error"]["message"]
        assert [worker.is_free for worker in workers(asker)] == [True, True]

    def test_the_gateways_own_addresses(self, asker: Asker) -> None:
        assert asker.http.get("/health", headers={"Authorization": ""}).json() == {"status": "ok"}
        assert [model["id"] for model in asker.http.get("/v1/models").json()["data"]] == ["demo"]
        assert {slot["worker"] for slot in asker.http.get("/slots").json()} == {"demo/0", "demo/1"}
        props = asker.http.get("/props").json()
        assert (props["model_path"], props["total_slots"]) == ("demo", 2)
        capabilities = asker.http.get("/api/capabilities").json()
        assert [worker["state"] for worker in capabilities["models"][0]["workers"]] == ["ready", "ready"]
        assert "reason" in capabilities["devices"]

    @pytest.mark.parametrize("key", [True, False])
    def test_nobody_is_told_where_files_lie(self, asker: Asker, *, key: bool) -> None:
        running = asker.gateway._running
        assert running is not None
        (address, _) = (replica.address for replica in running.models["demo"].fleet.replicas)
        folders = {str(Path(address.host).parent), str(demo_path("demo").parent), str(binaries_dir())}
        for path in (*(path for _, path in ROUTES), *ALIASES, "/v1/models/demo", "/v1/models/none", "/chat/none"):
            told = asker.http.get(path, headers={} if key else {"Authorization": ""}).text
            assert not [folder for folder in folders if folder in told]

    def test_the_figures_of_the_gateway_and_of_every_worker_are_on_one_page(self, asker: Asker) -> None:
        before = asker.metrics()
        assert asker.chat().status_code == 200
        after = asker.metrics()
        name = "llcuda_requests_total200chatdemo"
        assert after[name] == before.get(name, 0) + 1
        assert after["llcuda_completion_tokens_total"] > before["llcuda_completion_tokens_total"]
        assert after["llcuda_worker_updemodemo/1"] == 1
        assert {"llamacpp:prompt_tokens_totaldemodemo/0", "llamacpp:prompt_tokens_totaldemodemo/1"} <= after.keys()

    def test_the_page_of_the_documentation_names_addresses_that_there_are(self) -> None:
        text = (DOCS / "serving.md").read_text(encoding="utf-8")
        addresses = set(re.findall(r"`(?:GET |POST )?(/[\w/-]+)`", text))
        assert len(addresses) > 15
        assert addresses <= {path for _, path in ROUTES}

    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [
            (b"{", 400, "invalid_json"),
            (b"[]", 400, "invalid_json"),
            (b'{"messages":[],"messages":[]}', 400, "invalid_json"),
            (b'{"messages":[{"role":"user","content":"x"}],"chat_parser":"x"}', 400, "unknown_field"),
            (b'{"messages":[{"role":"user","content":"x"}],"temperature":-1}', 400, "invalid_value"),
            (b'{"messages":[{"role":"user","content":"x"}],"model":"other"}', 404, "model_not_found"),
        ],
    )
    def test_a_bad_request_reaches_no_worker(self, asker: Asker, *, body: bytes, status: int, code: str) -> None:
        sent = sum(worker.answered for worker in workers(asker))
        answer = asker.http.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert sum(worker.answered for worker in workers(asker)) == sent

    def test_keys_are_asked_for_and_what_is_the_admins_is_not_the_users(self, asker: Asker) -> None:
        assert asker.http.get("/v1/models", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert asker.http.get("/v1/models", headers={"Authorization": ""}).status_code == 401
        assert asker.http.post("/api/admin/reload").status_code == 403
        assert asker.http.get("/nonesuch").status_code == 404
        assert asker.http.get("/v1/chat/completions").headers["allow"] == "POST"

    def test_a_conversation_stays_with_its_worker(self, asker: Asker) -> None:
        messages, cached = [{"role": "user", "content": f"Hello {random.random()}"}], 0
        for _ in range(4):
            answer = asker.http.post("/v1/chat/completions", json={"messages": messages, "temperature": 0}).json()
            messages += [answer["choices"][0]["message"], {"role": "user", "content": "Go on."}]
            cached = answer["timings"]["cache_n"]
        assert cached > 20


def test_many_clients_on_few_slots_are_all_answered_in_turn() -> None:
    with serving(workers=2, slots=1, limits={"max_queued": 64}) as asker, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda number: asker.chat(f"What is {number}+2?", temperature=0), range(64)))
        assert [answer.status_code for answer in answers] == [200] * 64
        texts = [answer.json()["choices"][0]["message"]["content"] for answer in answers]
        assert texts[7] == "7 + 2 = 9."
        assert all(worker.answered for worker in workers(asker))


def test_beyond_what_may_wait_the_answer_is_429_at_once() -> None:
    with serving(slots=1, limits={"max_queued": 2}) as asker, ThreadPoolExecutor(12) as pool:
        first = asker.events(ENDLESS)
        next(first)
        asked = [pool.submit(asker.chat) for _ in range(12)]
        wait_until(lambda: sum(one.done() for one in asked) == 10)
        refused = [one.result() for one in asked if one.done()]
        assert {answer.status_code for answer in refused} == {429}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert asker.metrics()["llcuda_rejected_totalqueue_full"] == 10
        first.close()
        assert sorted(one.result().status_code for one in asked) == [200] * 2 + [429] * 10


def test_a_key_is_held_to_its_share() -> None:
    keys = (KeyConfig("one", "sk-one", max_in_flight=1),)
    with serving(slots=4, keys=keys, key="sk-one") as asker:
        events = asker.events(ENDLESS)
        next(events)
        refused = asker.chat()
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_in_flight")
        events.close()
        wait_until(lambda: not any(worker.busy for worker in workers(asker)))
        assert asker.chat().status_code == 200


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_goes_away_frees_its_slot(is_stream: bool) -> None:  # noqa: FBT001
    with serving(slots=1) as asker:
        for _ in range(5):
            with httpx.Client(base_url=asker.gateway.url, trust_env=False) as other:
                if is_stream:
                    request = other.build_request("POST", "/completion", json={**ENDLESS, "stream": True})
                    answer = other.send(request, stream=True)
                    next(answer.iter_lines())
                    answer.close()
                else:
                    data = other.build_request("POST", "/completion", json=LONG)
                    with socket.create_connection(("127.0.0.1", asker.gateway.port)) as connection:
                        head = "\r\n".join(f"{name}: {value}" for name, value in data.headers.items())
                        connection.sendall(f"POST /completion HTTP/1.1\r\n{head}\r\n\r\n".encode() + data.read())
                        wait_until(lambda: any(worker.busy for worker in workers(asker)))
            wait_until(lambda: not any(slot["is_processing"] for slot in asker.http.get("/slots").json()))
        wait_until(lambda: asker.metrics()["llcuda_cancelled_total"] == 5)
        assert asker.chat().status_code == 200


def ask_until(stop: threading.Event, asker: Asker, answers: list[httpx.Response]) -> None:
    while not stop.wait(0.01):
        answers.append(asker.chat(f"What is {random.randrange(50)}+2?", temperature=0))


@contextmanager
def under_load(asker: Asker, clients: int = 4) -> Iterator[list[httpx.Response]]:
    stop, answers = threading.Event(), list[httpx.Response]()
    threads = [threading.Thread(target=ask_until, args=(stop, asker, answers)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_no_request_is_lost_while_workers_are_killed() -> None:
    with serving(workers=2, slots=2) as asker, under_load(asker) as answers:
        for number in range(4):
            before = len(answers)
            victim = replicas(asker)[number % 2]
            os.kill(victim.pid, signal.SIGKILL)
            wait_until(lambda victim=victim: victim.state == "ready" and victim.pid)  # type: ignore[misc]
            wait_until(lambda before=before: len(answers) > before + 20)  # type: ignore[misc]
    assert {answer.status_code for answer in answers} == {200}


def test_a_worker_that_is_stopped_is_not_asked_and_comes_back() -> None:
    with serving(workers=2, slots=2, hang_timeout=60.0) as asker:
        first, _second = replicas(asker)
        with under_load(asker, clients=1) as answers:
            os.kill(first.pid, signal.SIGSTOP)
            wait_until(lambda: first.state == "silent")
            os.kill(first.pid, signal.SIGCONT)
            wait_until(lambda: first.state == "ready")
            before = len(answers)
            wait_until(lambda: len(answers) > before + 20)
        assert {answer.status_code for answer in answers} == {200}


def test_a_request_on_a_worker_that_hangs_is_answered_by_another() -> None:
    with serving(workers=2, slots=1, hang_timeout=3.0) as asker:
        for replica in replicas(asker):
            os.kill(replica.pid, signal.SIGSTOP)
        os.kill(replicas(asker)[1].pid, signal.SIGCONT)
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda _: asker.chat(temperature=0), range(2)))
        assert [answer.status_code for answer in answers] == [200, 200]


def test_a_stream_whose_worker_dies_ends_with_an_error() -> None:
    with serving(workers=2, slots=1) as asker:
        for number in range(4):
            events = asker.events({**ENDLESS, "prompt": f"What is {number}+2?"})
            next(events)
            (busy,) = [worker for worker in workers(asker) if worker.busy]
            os.kill(busy.server.pid, signal.SIGKILL)
            assert "broke off" in list(events)[-1]["error"]["message"]
            wait_until(lambda busy=busy: busy.server.state == "ready")  # type: ignore[misc]


def test_a_reload_replaces_every_worker_and_loses_nothing() -> None:
    with serving(workers=2, slots=2) as asker:
        before = {replica.pid for replica in replicas(asker)}
        with under_load(asker) as answers:
            asker.gateway.reload()
            seen = len(answers)
            wait_until(lambda: len(answers) > seen + 20)
        after = {replica.pid for replica in replicas(asker)}
        assert len(before | after) == 4
        assert {answer.status_code for answer in answers} == {200}


def test_a_stream_that_has_begun_is_finished_before_the_gateway_ends() -> None:
    gateway = Gateway(config(slots=2))
    gateway.start()
    asker = Asker(gateway)
    events = asker.events(LONG)
    first = next(events)
    stopping = threading.Thread(target=gateway.stop)
    stopping.start()
    rest = list(events)
    stopping.join()
    assert first["content"]
    assert rest[-1]["stop"]
    assert rest[-1]["tokens_predicted"] == 900
    asker.http.close()


def test_after_the_time_of_grace_a_stream_ends_with_an_error() -> None:
    gateway = Gateway(config(slots=2))
    gateway.start()
    asker = Asker(gateway)
    events = asker.events(ENDLESS)
    next(events)
    stopping = threading.Thread(target=gateway.stop, kwargs={"grace": 0.0})
    stopping.start()
    assert "stopped" in list(events)[-1]["error"]["message"]
    stopping.join()
    asker.http.close()


def test_several_models_are_told_apart_and_one_is_started_when_it_is_asked_for() -> None:
    models = (ModelConfig("a", "demo"), ModelConfig("b", "demo", on_demand=True, slots=1))
    with serving(models=models) as asker:
        assert not replicas(asker, "b")
        assert asker.chat(model="a").json()["model"] == "a"
        assert asker.chat(model="b").json()["model"] == "b"
        assert asker.chat().json()["model"] == "a"
        assert [replica.state for replica in replicas(asker, "b")] == ["ready"]


def test_a_model_that_nobody_asks_is_unloaded_and_loaded_again() -> None:
    models = (ModelConfig("demo", "demo", on_demand=True, idle_timeout=0.5),)
    with serving(models=models) as asker:
        assert asker.http.get("/health").json() == {"status": "ok"}
        for _ in range(2):
            assert asker.chat().status_code == 200
            wait_until(lambda: not replicas(asker))


@pytest.mark.parametrize("names", ["abc", "cab"])
def test_where_memory_is_short_the_model_that_was_not_used_for_longest_makes_room(
    names: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tuple(ModelConfig(name, "demo", on_demand=True, slots=1) for name in names)
    with serving(models=models) as asker:
        for name in ("b", "a"):
            assert asker.chat(model=name).status_code == 200
        running = asker.gateway._running
        assert running is not None
        fleet = running.models["c"].fleet
        start = fleet.ensure_started

        async def run_short() -> None:
            if running.models["b"].fleet.replicas:
                raise OutOfMemoryError("there is not enough memory")
            await start()

        monkeypatch.setattr(fleet, "ensure_started", run_short)
        assert asker.chat(model="c").json()["model"] == "c"
        assert [bool(replicas(asker, name)) for name in ("a", "b", "c")] == [True, False, True]


def test_the_audit_log_names_the_address_that_was_asked(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    with serving(audit_log=log) as asker:
        assert asker.http.get("/chat/props").status_code == 200
        assert asker.http.get("/chat/nonesuch").status_code == 404
    assert [json.loads(line)["path"] for line in log.read_text().splitlines()] == ["/chat/props", "/chat/nonesuch"]


def test_where_nothing_can_make_room_the_answer_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(models=(ModelConfig("a", "demo", on_demand=True),)) as asker:
        running = asker.gateway._running
        assert running is not None

        async def run_short() -> None:
            raise OutOfMemoryError("there is not enough memory in /some/path")

        monkeypatch.setattr(running.models["a"].fleet, "ensure_started", run_short)
        answer = asker.chat()
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "out_of_memory")
        assert "/some/path" not in answer.text


def test_what_cannot_be_served_is_an_error_and_leaves_nothing() -> None:
    threads = set(threading.enumerate())
    with pytest.raises(ModelNotFoundError):
        Gateway(config(models=(ModelConfig("x", "/nonesuch.gguf"),))).start()
    with serving() as asker:
        taken = GatewayConfig(models=(ModelConfig("demo", "demo"),), port=asker.gateway.port)
        with pytest.raises(PortInUseError):
            Gateway(taken).start()
    with pytest.raises(ServerError):
        _ = Gateway(config()).url
    assert [thread.name for thread in threading.enumerate() if thread not in threads] == []
