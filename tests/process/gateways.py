"""Gateways for the tests of other people's clients: real llama-servers with the demo model, behind a key."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llcuda.gateway.config import GatewayConfig, KeyConfig, ModelConfig
from llcuda.gateway.gateway import Gateway

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def is_busy(running: Gateway) -> bool:
    """Tell whether a slot is in use."""
    inner = running._running
    assert inner is not None
    return any(worker.busy for model in inner.models.values() for worker in model.workers)
