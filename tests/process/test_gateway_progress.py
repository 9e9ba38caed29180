"""A llama-server that answers its health check and nothing else: its computing thread is seen to stand still."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import httpx

from llcuda.gateway import progress
from llcuda.gateway.config import GatewayConfig, ModelConfig
from llcuda.gateway.gateway import Gateway
from llcuda.gateway.resident import read_main_thread_seconds
from tests.processes import wait_until
from tests.stub_engine import write_executable
from tests.watching import ask_socket

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

PATH = "/v1/chat/completions"
# It takes minutes: as many states of the grammar as there are optional letters.
ENDLESS = {"prompt": "x", "grammar": "root ::= " + '"a"? ' * 2000, "n_predict": 8}


def find_replica(gateway: Gateway) -> Any:
    running = gateway._running
    assert running is not None
    (replica,) = running.fleets["demo"].replicas
    return replica


def test_a_worker_that_stands_still_is_started_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SECONDS_PER_PROMPT_TOKEN", 0.01)
    monkeypatch.setattr(progress, "_BUSY_MACHINE", 1)
    monkeypatch.setenv("LLAMA_SERVER_PATH", str(write_executable(tmp_path / "llama-server")))
    config = GatewayConfig(models=(ModelConfig("demo", "demo"),), port=0, hang_timeout=1.0)
    with Gateway(config) as gateway, httpx.Client(base_url=gateway.url, timeout=60) as client:
        replica = find_replica(gateway)
        ask_socket(str(replica.socket_path), "/stub", {"fault": "stuck"}, key=replica.api_key)
        body = {"messages": [{"role": "user", "content": json.dumps({"tokens": 3})}]}
        assert client.post(PATH, json=body).status_code == 200
        assert replica.restarts == 1
        assert "not looked at what it is asked" in str(replica.last_error)


def test_a_worker_that_computes_for_nobody_is_started_anew() -> None:
    config = GatewayConfig(models=(ModelConfig("demo", "demo", slots=2),), port=0, hang_timeout=1.0)
    with Gateway(config) as gateway, httpx.Client(base_url=gateway.url, timeout=60) as client:
        replica = find_replica(gateway)
        question = {"messages": [{"role": "user", "content": "What is 2+2?"}], "temperature": 0}
        assert client.post(PATH, json=question).status_code == 200
        wait_until(lambda: find_worker(gateway).is_settled)
        before = replica.pid
        # Past the gateway, which does not let it through, and away at once.
        leave(replica, ENDLESS)
        answer = client.post(PATH, json=question)
        assert answer.json()["choices"][0]["message"]["content"] == "2 + 2 = 4."
        assert replica.pid != before


def find_worker(gateway: Gateway) -> Any:
    running = gateway._running
    assert running is not None
    (worker,) = running.models["demo"].workers
    return worker


def leave(replica: Any, body: dict[str, Any]) -> None:
    data = json.dumps(body)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(replica.socket_path))
        head = f"POST /completion HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {replica.api_key}\r\n"
        client.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n{data}".encode())
        before = read_main_thread_seconds(replica.pid) or 0.0
        wait_until(lambda: (read_main_thread_seconds(replica.pid) or 0.0) > before + 0.2)


