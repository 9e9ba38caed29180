"""A llama-server that answers its health check and nothing else: its computing thread is seen to stand still."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx

from llcuda.fleet.dispatch import progress
from llcuda.fleet.processes import heartbeat
from llcuda.gateway import GatewayConfig, ModelConfig
from llcuda.gateway.gateway import Gateway
from tests.processes import wait_until
from tests.standins.stub_engine import write_executable
from tests.watching import ask_socket

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

PATH = "/v1/chat/completions"


def find_replica(gateway: Gateway) -> Any:
    running = gateway._running
    assert running is not None
    (replica,) = running.models["demo"].fleet.replicas
    return replica


def test_a_worker_that_stands_still_is_started_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SECONDS_PER_PROMPT_TOKEN", 0.01)
    monkeypatch.setattr(heartbeat, "BUSY_MACHINE", 1)
    monkeypatch.setenv("LLAMA_SERVER_PATH", str(write_executable(tmp_path / "llama-server")))
    config = GatewayConfig(models=(ModelConfig("demo", "demo"),), port=0, hang_timeout=1.0)
    with Gateway(config) as gateway, httpx.Client(base_url=gateway.url, timeout=60) as client:
        replica = find_replica(gateway)
        ask_socket(str(replica.socket_path), "/stub", {"fault": "stuck"}, key=replica.api_key)
        body = {"messages": [{"role": "user", "content": json.dumps({"tokens": 3})}]}
        assert client.post(PATH, json=body).status_code == 200
        assert replica.restarts >= 1
        assert "not looked at what it is asked" in str(replica.last_error)


def test_a_worker_that_stands_still_in_a_whole_answer_need_not_read_its_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_SECONDS_PER_PROMPT_TOKEN", 1000.0)
    monkeypatch.setattr(heartbeat, "BUSY_MACHINE", 1)
    monkeypatch.setenv("LLAMA_SERVER_PATH", str(write_executable(tmp_path / "llama-server")))
    config = GatewayConfig(models=(ModelConfig("demo", "demo"),), port=0, hang_timeout=1.0)
    with Gateway(config) as gateway, ThreadPoolExecutor() as threads:
        replica, worker = find_replica(gateway), find_worker(gateway)
        body = {"messages": [{"role": "user", "content": json.dumps({"tokens": 100, "token_ms": 100})}]}
        answered = threads.submit(httpx.post, f"{gateway.url}{PATH}", json=body, timeout=60)
        wait_until(lambda: any(slot.prompt_tokens == 0 for slot in worker.taken))
        ask_socket(str(replica.socket_path), "/stub", {"fault": "stuck"}, key=replica.api_key)
        assert answered.result().status_code == 200
        assert replica.restarts >= 1
        assert "not looked at what it is asked" in str(replica.last_error)


def test_a_worker_that_computes_for_nobody_is_started_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "BUSY_MACHINE", 1)
    monkeypatch.setenv("LLAMA_SERVER_PATH", str(write_executable(tmp_path / "llama-server")))
    config = GatewayConfig(models=(ModelConfig("demo", "demo", slots=2),), port=0, hang_timeout=1.0)
    with Gateway(config) as gateway, httpx.Client(base_url=gateway.url, timeout=60) as client:
        replica = find_replica(gateway)
        endless = {"tokens": 100_000, "token_ms": 5, "heedless": True}
        leave(replica, {"messages": [{"role": "user", "content": json.dumps(endless)}], "stream": True})
        body = {"messages": [{"role": "user", "content": json.dumps({"tokens": 3})}]}
        assert client.post(PATH, json=body).status_code == 200
        wait_until(lambda: replica.restarts >= 1 and replica.state == "ready")
        assert "computed what nobody waits for" in str(replica.last_error)
        assert client.post(PATH, json=body).status_code == 200
        wait_until(lambda: find_worker(gateway).is_settled)


def test_a_real_worker_that_has_nothing_to_do_is_left_alone() -> None:
    config = GatewayConfig(models=(ModelConfig("demo", "demo", slots=2),), port=0)
    with Gateway(config) as gateway, httpx.Client(base_url=gateway.url, timeout=60) as client:
        question = {"messages": [{"role": "user", "content": "What is 2+2?"}], "temperature": 0}
        assert client.post(PATH, json=question).status_code == 200
        wait_until(lambda: find_worker(gateway).is_settled)
        assert find_replica(gateway).restarts == 0


def find_worker(gateway: Gateway) -> Any:
    running = gateway._running
    assert running is not None
    (worker,) = running.models["demo"].workers
    return worker


def leave(replica: Any, body: dict[str, Any]) -> None:
    """Ask past the gateway, and go once the answer has begun."""
    data = json.dumps(body)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(replica.socket_path))
        head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {replica.api_key}\r\n"
        client.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n{data}".encode())
        assert client.recv(1)
