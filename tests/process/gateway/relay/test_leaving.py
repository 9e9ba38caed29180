"""Clients of a real llama-server leave in the same moment: what they had and what they waited for is free again."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import httpx

from tests.process.gateway.clients.gateways import ANSWER, KEY, MESSAGES, gateway, is_busy
from tests.processes import wait_until

if TYPE_CHECKING:
    from llcuda.gateway.gateway import Gateway

LONG = {"messages": MESSAGES, "max_tokens": 900, "ignore_eos": True, "stream": True}


def ask(running: Gateway) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", running.port), 120)
    body = json.dumps(LONG)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
    client.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    return client


def count_waiting(running: Gateway) -> int:
    inner = running._running
    assert inner is not None
    return sum(model.admission.waiting for model in inner.models.values())


def test_slots_and_queue_are_empty_again_when_all_clients_have_left_at_once() -> None:
    with gateway(workers=1, slots=4) as running:
        for _ in range(5):
            clients = [ask(running) for _ in range(8)]
            wait_until(lambda: count_waiting(running) == 4)
            for client in clients:
                client.shutdown(socket.SHUT_RDWR)
                client.close()
            wait_until(lambda: not is_busy(running) and not count_waiting(running))
        with httpx.Client(base_url=running.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as http:
            answer = http.post("/v1/chat/completions", json={"messages": MESSAGES, "temperature": 0})
            assert answer.json()["choices"][0]["message"]["content"] == ANSWER
            page = http.get("/metrics").text.splitlines()
            repairs = [line for line in page if line.startswith("llcuda_repairs_total{")]
            assert [line.rpartition(" ")[2] for line in repairs] == ["0.0"] * 4
