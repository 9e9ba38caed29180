"""Make the gateway's descriptor and its types of llcuda.proto: `python -m tools.binaries.protocol`."""

from __future__ import annotations

import subprocess
import sys

from tools.binaries.errors import PreparationError
from tools.binaries.lock import ROOT

__all__ = ["compile_protocol"]

FOLDER = ROOT / "src/llcuda/gateway/grpc"


def compile_protocol() -> None:
    """Write llcuda.binpb and llcuda_pb2.pyi beside llcuda.proto. Raises PreparationError with what protoc says."""
    outputs = f"--descriptor_set_out={FOLDER / 'llcuda.binpb'}", f"--pyi_out={FOLDER}"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{FOLDER}", *outputs, "llcuda.proto"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PreparationError(f"llcuda.proto cannot be compiled: {done.stderr.strip()}")


if __name__ == "__main__":
    compile_protocol()
