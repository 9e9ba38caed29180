"""A request that ends whatever answers it: llama-server's stand-in dies of it, and nobody else pays for it twice."""

from __future__ import annotations

import json
import os
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from llcuda.gateway import GatewayConfig, ModelConfig
from llcuda.gateway.gateway import Gateway
from tests.processes import wait_until
from tests.standins.stub_engine import write_executable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATH = "/v1/chat/completions"
POISON: dict[str, Any] = {"tokens": 8, "token_ms": 5, "die_at": 0, "first_ms": 30}


def steer(*, stream: bool = False, **wishes: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": json.dumps(wishes)}], "stream": stream}


@contextmanager
def serving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, workers: int = 2, slots: int = 4
) -> Iterator[tuple[Gateway, httpx.Client]]:
    monkeypatch.setenv("LLAMA_SERVER_PATH", str(write_executable(tmp_path / "llama-server")))
    config = GatewayConfig(models=(ModelConfig("demo", "demo", workers=workers, slots=slots),), port=0)
    with Gateway(config) as gateway, httpx.Client(base_url=gateway.url, timeout=60) as client:
        yield gateway, client


def count_restarts(gateway: Gateway) -> int:
    running = gateway._running
    assert running is not None
    return sum(replica.restarts for replica in running.models["demo"].fleet.replicas)


def wait_ready(gateway: Gateway, workers: int) -> None:
    running = gateway._running
    assert running is not None
    model = running.models["demo"]
    wait_until(lambda: sum(worker.is_usable for worker in model.workers) == workers)


def ask_all(client: httpx.Client, bodies: list[dict[str, Any]]) -> list[httpx.Response]:
    answers: dict[int, httpx.Response] = {}

    def ask(number: int) -> None:
        answers[number] = client.post(PATH, json=bodies[number])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [answers[number] for number in range(len(bodies))]


@pytest.mark.parametrize("workers", [1, 2])
def test_what_ends_two_workers_is_refused_and_everybody_else_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    with serving(tmp_path, monkeypatch, workers=workers) as (gateway, client):
        others = [steer(tokens=20, token_ms=5, tag=number) for number in range(3 * workers)]
        *answers, poisoned = ask_all(client, [*others, steer(**POISON)])
        assert [answer.status_code for answer in answers] == [200] * len(others)
        assert (poisoned.status_code, poisoned.json()["error"]["code"]) == (422, "fatal_request")
        wait_ready(gateway, workers)
        before = count_restarts(gateway)
        again = client.post(PATH, json=steer(**POISON))
        assert again.status_code == 422
        assert client.post(PATH, json=steer(tokens=3)).status_code == 200
        assert count_restarts(gateway) == before == 2


def test_a_stream_that_had_begun_is_tried_alone_when_it_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = steer(stream=True, tokens=9, token_ms=2, die_at=4)
    with serving(tmp_path, monkeypatch) as (gateway, client):
        for _ in range(2):
            answer = client.post(PATH, json=poison)
            assert (answer.status_code, answer.text.count("worker_failed")) == (200, 1)
            wait_ready(gateway, 2)
        assert client.post(PATH, json=poison).status_code == 422


def test_whoever_leaves_before_a_worker_dies_of_what_he_sent_is_no_less_suspect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = steer(**{**POISON, "first_ms": 1500, "heedless": True})
    with serving(tmp_path, monkeypatch) as (gateway, client):
        running = gateway._running
        assert running is not None
        model = running.models["demo"]
        for deaths in (1, 2):
            with pytest.raises(httpx.ReadTimeout):
                client.post(PATH, json=poison, timeout=0.5)
            wait_until(lambda deaths=deaths: count_restarts(gateway) == deaths)  # type: ignore[misc]
            wait_ready(gateway, 2)
            assert [record.is_proved for record in model.suspects._records.values()] == [False]
        assert client.post(PATH, json=poison).status_code == 422


def test_what_ends_workers_without_a_slot_is_refused_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path, monkeypatch) as (gateway, client):
        for status in (502, 422, 422):
            answer = client.post("/tokenize", json={"content": "die"})
            assert (answer.status_code, count_restarts(gateway) < 3) == (status, True)
            wait_ready(gateway, 2)


def test_who_was_only_beside_it_is_no_suspect_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path, monkeypatch, workers=1) as (gateway, client):
        other = steer(tokens=20, token_ms=5)
        answer, _ = ask_all(client, [other, steer(**POISON)])
        assert answer.status_code == 200
        wait_ready(gateway, 1)
        running = gateway._running
        assert running is not None
        records = running.models["demo"].suspects._records
        assert [record.is_proved for record in records.values()] == [True]
        assert client.post(PATH, json=other).status_code == 200


def test_who_was_alone_when_somebody_killed_the_worker_is_answered_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path, monkeypatch, workers=1) as (gateway, client):
        running = gateway._running
        assert running is not None
        model = running.models["demo"]
        long = steer(stream=True, tokens=4000, token_ms=5)
        for deaths in (1, 2):
            with client.stream("POST", PATH, json=long) as answer:
                assert answer.status_code == 200
                pieces = answer.iter_bytes()
                next(pieces)
                os.kill(running.models["demo"].fleet.replicas[0].pid or 0, signal.SIGKILL)
                assert b"worker_failed" in b"".join(pieces)
            wait_until(lambda deaths=deaths: count_restarts(gateway) == deaths)  # type: ignore[misc]
            wait_ready(gateway, 1)
        (record,) = model.suspects._records.values()
        assert (record.kills, record.is_proved) == (1, False)
