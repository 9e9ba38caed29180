"""What the package carries: executables, CUDA backends, the record of their build, and where libraries are found."""

from __future__ import annotations

from llcuda.native.backends import Backend, find_backends
from llcuda.native.build_info import (
    BuildInfo,
    CudaInfo,
    FileRecord,
    Problem,
    binaries_dir,
    check_binaries,
    read_build_info,
)
from llcuda.native.executables import exec_tool, find_executable, find_guard
from llcuda.native.libraries import child_environment, library_folders

__all__ = [
    "Backend",
    "BuildInfo",
    "CudaInfo",
    "FileRecord",
    "Problem",
    "binaries_dir",
    "check_binaries",
    "child_environment",
    "exec_tool",
    "find_backends",
    "find_executable",
    "find_guard",
    "library_folders",
    "read_build_info",
]
