"""llama.cpp's own tools, passed through: each becomes the bundled executable, on the GPU if there is one."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import NoReturn

from llcuda.cli.output import print_error, print_note
from llcuda.errors import LlcudaError
from llcuda.native import child_environment, exec_tool, find_executable

__all__ = ["bench", "cli", "embedding", "gguf_split", "imatrix", "perplexity", "quantize", "server"]


def _become(name: str, *, use_gpu: bool = True) -> NoReturn:
    """Become llama.cpp's program of that name."""
    try:
        exec_tool(name, sys.argv[1:], environment=_make_environment(name) if use_gpu else None)
    except LlcudaError as error:
        print_error(error)
        sys.exit(error.exit_code)


def _make_environment(name: str) -> dict[str, str]:
    """Choose a backend as the engine does, unless the user has set GGML_BACKEND_PATH to one."""
    from llcuda.devices import choose_backend, find_devices, visible_devices  # noqa: PLC0415 - not for quantize
    from llcuda.native import find_backends  # noqa: PLC0415

    path = find_executable(name)
    if own := os.environ.get("GGML_BACKEND_PATH"):
        return child_environment(path, extra={"GGML_BACKEND_PATH": own})
    choice = choose_backend(find_devices(), find_backends())
    if choice.backend is None:
        if choice.remedy:
            print_note(f"llcuda: {choice.sentence} {choice.remedy}")
        return child_environment(path)
    return child_environment(path, backend=choice.backend, extra={"CUDA_VISIBLE_DEVICES": visible_devices(choice)})


server = partial(_become, "llama-server")
cli = partial(_become, "llama-cli")
bench = partial(_become, "llama-bench")
quantize = partial(_become, "llama-quantize", use_gpu=False)
embedding = partial(_become, "llama-embedding")
perplexity = partial(_become, "llama-perplexity")
imatrix = partial(_become, "llama-imatrix")
gguf_split = partial(_become, "llama-gguf-split", use_gpu=False)
