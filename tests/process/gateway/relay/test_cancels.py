"""Clients of a real llama-server go away in the midst of an answer: how long their slots stay in use.

The short version is a test; the long one is ``python -m benchmarks.gateway_cancels``.
"""

from __future__ import annotations

import json
import random
import socket
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.watching import watched

if TYPE_CHECKING:
    from tests.watching import Watched

_WORKER = "demo/0"


@dataclass
class CancelFigures:
    """Milliseconds from a client's leaving until its slot is free, of the cancels that met an answer."""

    kind: str
    gateway_ms: list[float] = field(default_factory=list)
    """As the gateway counts slots."""
    server_ms: list[float] = field(default_factory=list)
    """As llama-server's ``/slots`` says, asked again and again; each question takes a millisecond or two."""
    missed: int = 0
    """Answers that had ended before the client left."""
    cancelled: int = 0
    """Those in the gateway's own figure."""


def run_cancels(kind: str, count: int) -> CancelFigures:
    """Leave ``count`` times; ``kind`` is ``stream``, ``whole``, or ``probabilities``: a whole answer that has them.

    Such a one takes llama-server longer for each token, and it looks every 20 ms whether its client is there.
    """
    figures = CancelFigures(kind)
    model = {"workers": 1, "slots": 4, "threads": 1, "ctx_size": 1024}
    with tempfile.TemporaryDirectory() as folder, watched(Path(folder), model=model) as gateway:
        for _ in range(count):
            _leave(gateway, figures)
        gateway.await_idle()
        figures.cancelled = gateway.read_figure("llcuda_cancelled_total")
    return figures


def _leave(gateway: Watched, figures: CancelFigures) -> None:
    begin = len(gateway.events)
    with socket.create_connection(("127.0.0.1", gateway.port), 120) as client:
        client.sendall(_build_request(figures.kind))
        if figures.kind == "stream":
            client.recv(1)
        gateway.wait("take", worker=_WORKER, begin=begin)
        time.sleep(random.uniform(0.005, 0.1))
        is_missed = gateway.find("release", worker=_WORKER, begin=begin) is not None
        left = time.monotonic()
    if is_missed:
        figures.missed += 1
        return
    while any(slot["is_processing"] for slot in gateway.ask_worker(_WORKER, "/slots")):
        pass
    figures.server_ms.append((time.monotonic() - left) * 1000)
    figures.gateway_ms.append((gateway.wait("release", worker=_WORKER, begin=begin).at - left) * 1000)


def _build_request(kind: str) -> bytes:
    # 0.4 s on an idle machine.
    fields: dict[str, Any] = {"prompt": f"What is {random.random()}?", "n_predict": 900, "ignore_eos": True}
    if kind == "probabilities":
        fields["n_probs"] = 100
    body = json.dumps({**fields, "stream": kind == "stream"}).encode()
    head = "POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize("kind", ["stream", "whole", "probabilities"])
def test_the_slot_is_free_after_the_client_has_left(kind: str) -> None:
    figures = run_cancels(kind, 8)
    assert len(figures.server_ms) >= 4
    assert figures.cancelled >= 4
