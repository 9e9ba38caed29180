"""What was started as a llama-server: the facts that errors name."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Launch"]


@dataclass(frozen=True, slots=True)
class Launch:
    """What was started: the facts that errors name."""

    executable: str = "llama-server"
    model: str = "the model"
    host: str = "127.0.0.1"
    port: int = 0
    driver: str = ""
    """The NVIDIA driver's version."""
    driver_floor: str = "550.54.14"
    """The oldest driver for the backend in use."""
    toolkit: str = ""
    """The CUDA version that the backend was built with."""
