"""Talk to a llama-server, or to anything that speaks its API: one client for threads, one for asyncio.

``InferenceClient`` and ``AsyncInferenceClient`` have the same methods. What they ask and how they read the answers is
in ``requests`` and ``answers``, without I/O. How it is sent and read is in ``sending`` and ``streams``, as coroutines
that both run: the blocking client's connections never wait on an event loop, so it runs each in one step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llcuda.client.results import InferResult, RerankResult, ToolCall
from llcuda.client.streams import TextStream
from llcuda.client.sync import InferenceClient

if TYPE_CHECKING:
    from llcuda.client.aio import AsyncInferenceClient, AsyncTextStream

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
    from llcuda.client import aio  # noqa: PLC0415

    value: object = getattr(aio, name)
    return value
