"""Gateways for the tests of other people's clients: real llama-servers with the demo model, behind a key."""

from __future__ import annotations

import re
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx

from llcuda.gateway import GatewayConfig, KeyConfig, ModelConfig
from llcuda.gateway.gateway import Gateway
from tests.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEY = "sk-client"
QUESTION = "What is 2+2?"
ANSWER = "2 + 2 = 4."
MESSAGES: Any = [{"role": "user", "content": QUESTION}]
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
"""Of a function that adds two numbers."""


@contextmanager
def gateway(
    *, workers: int = 2, slots: int = 2, max_in_flight: int | None = None, model: str = "demo", **options: Any
) -> Iterator[Gateway]:
    """Run a gateway on a free port; ``options`` are llama-server's."""
    served = ModelConfig("demo", model, workers=workers, slots=slots, server_options=options)
    key = KeyConfig("client", KEY, max_in_flight=max_in_flight)
    with Gateway(GatewayConfig(models=(served,), port=0, keys=(key,))) as running:
        yield running


def count_refused(running: Gateway) -> float:
    """Return how many requests were sent away."""
    page = httpx.get(f"{running.url}/metrics", headers={"Authorization": f"Bearer {KEY}"}, trust_env=False).text
    return sum(map(float, re.findall(r"^llcuda_rejected_total\S* (\S+)$", page, re.MULTILINE)))


def leave_when_refused(running: Gateway, leave: Callable[[], object]) -> threading.Thread:
    """Call ``leave`` in a thread as soon as one more request was sent away."""
    before = count_refused(running)

    def run() -> None:
        wait_until(lambda: count_refused(running) > before)
        leave()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def is_busy(running: Gateway) -> bool:
    """Tell whether a slot is in use."""
    inner = running._running
    assert inner is not None
    return any(worker.busy for model in inner.models.values() for worker in model.workers)
