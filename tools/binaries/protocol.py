"""Compile the gateway's .proto file to the descriptor that the gateway reads: `python -m tools.binaries.protocol`."""

from __future__ import annotations

import subprocess
import sys

from tools.binaries.errors import PreparationError
from tools.binaries.lock import ROOT

__all__ = ["compile_protocol"]

FOLDER = ROOT / "src/llcuda/gateway/grpc"


def compile_protocol() -> None:
    """Write llcuda.binpb beside llcuda.proto. Raises PreparationError with what protoc says."""
    output = FOLDER / "llcuda.binpb"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{FOLDER}", f"--descriptor_set_out={output}"]
    done = subprocess.run([*command, "llcuda.proto"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PreparationError(f"llcuda.proto cannot be compiled: {done.stderr.strip()}")


if __name__ == "__main__":
    compile_protocol()
