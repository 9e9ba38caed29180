"""Talk to a llama-server, or to anything that speaks its API: one client for threads, one for asyncio.

``InferenceClient`` and ``AsyncInferenceClient`` have the same methods. What they ask and how they read the answers is
in ``requests`` and ``answers``, without I/O; ``sync`` and ``aio`` add the waiting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llcuda.client.results import InferResult, RerankResult, ToolCall
from llcuda.client.streams import TextStream
from llcuda.client.sync import InferenceClient

if TYPE_CHECKING:
    from llcuda.client.aio import AsyncInferenceClient
    from llcuda.client.aio_streams import AsyncTextStream

__all__ = [
    "AsyncInferenceClient",
    "AsyncTextStream",
    "InferResult",
    "InferenceClient",
    "RerankResult",
    "TextStream",
    "ToolCall",
]


_LATER = {"AsyncInferenceClient": "llcuda.client.aio", "AsyncTextStream": "llcuda.client.aio_streams"}


def __getattr__(name: str) -> object:
    """Import the asyncio twin when it is asked for: asyncio costs 84 ms of CPU."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    value: object = getattr(import_module(_LATER[name]), name)
    return value
