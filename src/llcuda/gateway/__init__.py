"""One address in front of several llama-servers of the same model, and of several models.

>>> from llcuda.gateway import Gateway, GatewayConfig, ModelConfig
>>> with Gateway(GatewayConfig(models=(ModelConfig("demo", "demo", workers=2),), port=0)) as gateway:
...     client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llcuda.fleet.model_config import ModelConfig, RemoteConfig
from llcuda.gateway.config.configuration import GatewayConfig, KeyConfig, Limits

if TYPE_CHECKING:
    from llcuda.gateway.gateway import Gateway
    from llcuda.gateway.grpc.grpc_client import GrpcClient

__all__ = ["Gateway", "GatewayConfig", "GrpcClient", "KeyConfig", "Limits", "ModelConfig", "RemoteConfig"]


def __getattr__(name: str) -> object:
    """Load what needs the extra when it is first used: the command line's help does without."""
    if name == "Gateway":
        from llcuda.gateway.gateway import Gateway  # noqa: PLC0415 - see above

        return Gateway
    if name == "GrpcClient":
        from llcuda.gateway.grpc.grpc_client import GrpcClient  # noqa: PLC0415 - see above

        return GrpcClient
    raise AttributeError(f"module 'llcuda.gateway' has no attribute {name!r}")
