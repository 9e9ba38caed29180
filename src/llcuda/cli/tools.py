"""llama.cpp's own tools, passed through: each function becomes the bundled executable."""

from __future__ import annotations

import sys
from typing import NoReturn

from llcuda.cli.output import print_error
from llcuda.errors import LlcudaError
from llcuda.native import exec_tool

__all__ = ["bench", "cli", "embedding", "quantize", "server"]


def server() -> NoReturn:
    """Become llama-server."""
    _become("llama-server")


def cli() -> NoReturn:
    """Become llama-cli."""
    _become("llama-cli")


def bench() -> NoReturn:
    """Become llama-bench."""
    _become("llama-bench")


def quantize() -> NoReturn:
    """Become llama-quantize."""
    _become("llama-quantize")


def embedding() -> NoReturn:
    """Become llama-embedding."""
    _become("llama-embedding")


def _become(name: str) -> NoReturn:
    try:
        exec_tool(name, sys.argv[1:])
    except LlcudaError as error:
        print_error(error)
        sys.exit(error.exit_code)
