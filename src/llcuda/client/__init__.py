"""Talk to a llama-server, or to anything that speaks its API: one client for threads, one for asyncio.

``InferenceClient`` and ``AsyncInferenceClient`` have the same methods. ``requests`` and ``answers`` have what they ask
and how answers are read, without I/O. ``sending`` and ``streams`` are coroutines that both run: the blocking client's
connections never wait on an event loop, so it runs each in one step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llcuda.client.inference_client import InferenceClient
from llcuda.client.results import InferResult, RerankResult, ToolCall
from llcuda.client.streams import TextStream

if TYPE_CHECKING:
    from llcuda.client.async_client import AsyncInferenceClient, AsyncTextStream

__all__ = [
    "AsyncInferenceClient",
    "AsyncTextStream",
    "InferResult",
    "InferenceClient",
    "RerankResult",
    "TextStream",
    "ToolCall",
]


def __getattr__(name: str) -> object:
    """Import asyncio's client when it is asked for: asyncio costs 84 ms of CPU."""
    if name not in {"AsyncInferenceClient", "AsyncTextStream"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from llcuda.client import async_client  # noqa: PLC0415

    value: object = getattr(async_client, name)
    return value
