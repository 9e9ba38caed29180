"""Hold most of a GPU's memory from a process of its own: the limit that a model then does not fit into."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Through the driver alone, which is there wherever a GPU is.
_PROGRAM = """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
def call(name, *arguments):
    if code := getattr(cuda, name)(*arguments):
        sys.exit(f"{name} failed with {code}")
context, block = ctypes.c_void_p(), ctypes.c_uint64()
free, total = ctypes.c_size_t(), ctypes.c_size_t()
call("cuInit", 0)
call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
call("cuCtxSetCurrent", context)
call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
call("cuMemAlloc_v2", ctypes.byref(block), ctypes.c_size_t(free.value - (int(sys.argv[1]) << 20)))
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def leave(mib: int) -> Iterator[None]:
    """Leave so many MiB of the first GPU's memory free while the block runs."""
    command = [sys.executable, "-c", _PROGRAM, str(mib)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "held\n"
            yield
        finally:
            process.kill()
