"""HTTP/1.1 to one server over kept-alive connections, for threads and for asyncio. Never through a proxy.

``http1`` and ``events`` are framing without I/O. ``base_transport`` has the rules of requests and kept connections, as
coroutines; ``sync`` and ``aio`` open connections and move their bytes. Nothing heavy is imported before the first
request. It is our own because of the CPU that a request and an import cost: ``benchmarks/client.py`` measures it beside
httpx and openai.
"""

from __future__ import annotations

from llcuda.transport.address import Address, parse_address
from llcuda.transport.deadline import Deadline

__all__ = ["Address", "Deadline", "parse_address"]
