"""A gateway measures itself: real workers, figures held against the clock, and users who come first."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from llcuda.gateway import GatewayConfig, KeyConfig, Limits, ModelConfig
from llcuda.gateway.admin import self_benchmark
from llcuda.gateway.gateway import Gateway
from tests.process.gateway.clients.gateways import is_busy
from tests.processes import wait_until
from tests.upgrading import ADMIN, USER, follow, headers, post

if TYPE_CHECKING:
    from collections.abc import Iterator

PATH = "/api/admin/benchmark"


@contextmanager
def gateway(*, limits: Limits | None = None, **changes: Any) -> Iterator[Gateway]:
    keys = (KeyConfig("root", ADMIN, is_admin=True), KeyConfig("user", USER))
    model = ModelConfig("demo", "demo", **{"workers": 1, "slots": 2, "device": "cpu", **changes})
    with Gateway(GatewayConfig(models=(model,), port=0, keys=keys, limits=limits or Limits())) as running:
        yield running


@pytest.fixture(scope="module")
def shared() -> Iterator[Gateway]:
    with gateway() as running:
        yield running


def ask(url: str, tokens: int = 8) -> int:
    body = {"prompt": "A river", "n_predict": tokens, "ignore_eos": True}
    return httpx.post(f"{url}/completion", json=body, headers=headers(USER), timeout=60, trust_env=False).status_code


def test_the_figures_agree_with_each_other(shared: Gateway) -> None:
    began = time.monotonic()
    events = list(follow(shared.url, PATH, body={"prompts": 6, "max_tokens": 48}))
    seconds = time.monotonic() - began
    assert events[0]["step"] == "warm-up"
    assert {event["step"] for event in events} == {"warm-up", "measure", "done"}
    result = events[-1]["result"]
    assert (result["model"], result["complete"], result["prompts"]) == ("demo", True, 6)
    assert [one["concurrency"] for one in result["results"]] == [1, 2]
    assert 0 < sum(one["seconds"] for one in result["results"]) <= seconds
    for one in result["results"]:
        assert (one["requests"], one["errors"], one["completion_tokens"]) == (6, 0, 6 * 48)
        assert one["tokens_per_second"] == pytest.approx(6 * 48 / one["seconds"], rel=0.02)
        assert one["prompt_tokens"] > 6 * 100
        latency, first = one["latency_ms"], one["ttft_ms"]
        assert 0 < first["p50"] <= first["p95"]
        assert first["p50"] <= latency["p50"] <= latency["p95"] <= 1000 * one["seconds"] + 1
        assert one["prefill_tokens_per_second"] > 0
        # On a busy machine, all tokens of an answer can come at once: then there is nothing between them to measure.
        gap, rate = one["inter_token_ms"]["p50"], one["decode_tokens_per_second"]
        assert (gap is None) == (rate is None)
        assert gap is None or (gap > 0 and rate > 0)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"prompts": 0}, 400),
        ({"prompts": 201}, 400),
        ({"prompts": True}, 400),
        ({"max_tokens": 1025}, 400),
        ({"concurrency": [3]}, 400),  # more than there are slots
        ({"concurrency": [1, 1]}, 400),
        ({"concurrency": 1}, 400),
        ({"promts": 1}, 400),
        ({"model": "another"}, 404),
        ({"model": 7}, 400),
        ([], 400),
    ],
)
def test_what_cannot_be_measured_is_refused(shared: Gateway, *, body: Any, status: int) -> None:
    assert post(shared.url, PATH, body=body).status_code == status
    assert not is_busy(shared)


def test_only_an_administrator_measures_and_one_at_a_time(shared: Gateway) -> None:
    assert post(shared.url, PATH, body={}, key=USER).status_code == 403
    events = follow(shared.url, PATH, body={"prompts": 200, "max_tokens": 200})
    next(events)
    answer = post(shared.url, PATH, body={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "benchmark_under_way")
    wait_until(lambda: is_busy(shared))
    events.close()
    wait_until(lambda: not is_busy(shared))
    *_, last = follow(shared.url, PATH, body={"prompts": 1, "max_tokens": 4})
    assert last["step"] == "done"


def test_it_is_over_in_time_and_says_that_it_is_not_complete(shared: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_benchmark, "TIME_LIMIT", 0.5)
    *_, last = follow(shared.url, PATH, body={"prompts": 200, "max_tokens": 1024})
    assert last["result"]["complete"] is False
    wait_until(lambda: not is_busy(shared))


def test_users_go_first_and_none_is_sent_away_for_it() -> None:
    with gateway(slots=1, limits=Limits(max_queued=1)) as running, ThreadPoolExecutor(2) as users:
        end = threading.Event()
        statuses: list[int] = []

        def keep_asking() -> None:
            while not end.is_set():
                statuses.append(ask(running.url))

        events = follow(running.url, PATH, body={"prompts": 200, "max_tokens": 32})
        next(events)
        asked = [users.submit(keep_asking)]
        try:
            wait_until(lambda: len(statuses) >= 10)
        finally:
            end.set()
            events.close()
        asked[0].result()
        # One slot and one place to wait: whoever else took that place would have sent the user away.
        assert set(statuses) == {200}


def test_users_are_answered_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_benchmark, "TIME_LIMIT", 1.0)
    with gateway(slots=1) as running, ThreadPoolExecutor(8) as users:
        end = threading.Event()
        statuses: list[int] = []

        def keep_asking() -> None:
            while not end.is_set():
                statuses.append(ask(running.url, 200))  # so that there is always somebody who waits

        asked = [users.submit(keep_asking) for _ in range(8)]
        wait_until(lambda: len(statuses) > 8)
        *_, last = follow(running.url, PATH, body={"prompts": 8, "max_tokens": 8})
        end.set()
        for one in asked:
            one.result()
        assert last["step"] == "done"
        assert set(statuses) == {200}
        assert len(statuses) > 12


def test_an_end_of_the_gateway_ends_it() -> None:
    with gateway() as running:
        events = follow(running.url, PATH, body={"prompts": 200, "max_tokens": 500})
        next(events)
        stopper = threading.Thread(target=running.stop)
        stopper.start()
        *_, last = events
        stopper.join()
    assert "step" in last, last
    assert (last["step"], last["message"]) == ("failed", "the gateway is being stopped")
