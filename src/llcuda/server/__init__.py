"""Start a llama-server, know when it is ready, and be sure that it ends."""

from __future__ import annotations

from llcuda.server.arguments import build_arguments
from llcuda.server.failures import classify_failure
from llcuda.server.manager import ServerManager

__all__ = ["ServerManager", "build_arguments", "classify_failure"]
