"""One address in front of several llama-servers of the same model, and of several models.

>>> from llcuda.gateway import Gateway, GatewayConfig, ModelConfig
>>> with Gateway(GatewayConfig(models=(ModelConfig("demo", "demo", workers=2),), port=0)) as gateway:
...     client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llcuda.gateway.config import GatewayConfig, KeyConfig, Limits, ModelConfig

if TYPE_CHECKING:
    from llcuda.gateway.gateway import Gateway

__all__ = ["Gateway", "GatewayConfig", "KeyConfig", "Limits", "ModelConfig"]


def __getattr__(name: str) -> object:
    """Load the gateway itself when it is first used: it needs the extra, and the command line's help does not."""
    if name != "Gateway":
        raise AttributeError(f"module 'llcuda.gateway' has no attribute {name!r}")
    from llcuda.gateway.gateway import Gateway  # noqa: PLC0415 - see above

    return Gateway
