"""Run a GGUF model on the llama-server that this package carries.

>>> import llcuda
>>> with llcuda.InferenceEngine() as engine:
...     engine.load_model("demo")
...     print(engine.infer("What is 2+2?").text)
2 + 2 = 4.

Importing opens nothing, writes nothing and changes nothing: each public name is loaded when it is first used.
"""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` alone would take as long as everything else here; type checkers know the name

if TYPE_CHECKING:
    from llcuda.client import AsyncInferenceClient, InferenceClient, InferResult
    from llcuda.devices import check_cuda_available, check_gpu_compatibility, get_cuda_device_info
    from llcuda.engine import DeviceReport, DraftReport, InferenceEngine, quick_infer
    from llcuda.errors import LlcudaError
    from llcuda.installer import BinaryInstaller
    from llcuda.server import ServerManager

__version__ = "0.1.0"

__all__ = [
    "AsyncInferenceClient",
    "BinaryInstaller",
    "DeviceReport",
    "DraftReport",
    "InferResult",
    "InferenceClient",
    "InferenceEngine",
    "LlcudaError",
    "ServerManager",
    "__version__",
    "check_cuda_available",
    "check_gpu_compatibility",
    "get_cuda_device_info",
    "quick_infer",
]

_HOMES = {
    "AsyncInferenceClient": "llcuda.client",
    "BinaryInstaller": "llcuda.installer",
    "DeviceReport": "llcuda.engine",
    "DraftReport": "llcuda.engine",
    "InferResult": "llcuda.client",
    "InferenceClient": "llcuda.client",
    "InferenceEngine": "llcuda.engine",
    "LlcudaError": "llcuda.errors",
    "ServerManager": "llcuda.server",
    "check_cuda_available": "llcuda.devices",
    "check_gpu_compatibility": "llcuda.devices",
    "get_cuda_device_info": "llcuda.devices",
    "quick_infer": "llcuda.engine",
}


def __getattr__(name: str) -> object:
    """Load a public name at its first use: subprocess, ssl and json would cost every import 60 ms."""
    if name not in _HOMES:
        raise AttributeError(f"module 'llcuda' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - loaded only when needed

    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
