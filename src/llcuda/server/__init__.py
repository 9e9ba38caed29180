"""Start a llama-server, know when it is ready, and be sure that it ends."""

from __future__ import annotations

from llcuda.server.manager import ServerManager

__all__ = ["ServerManager"]
