"""What the package carries: executables, CUDA backends, the record of their build, and where libraries are found."""

from __future__ import annotations

from llcuda.native.backends import INSTALL_AGAIN, Backend, find_backends, read_backend
from llcuda.native.build_info import (
    BuildInfo,
    Problem,
    binaries_dir,
    check_binaries,
    package_dir,
    read_build_info,
)
from llcuda.native.executables import exec_tool, find_executable, find_guard
from llcuda.native.installed import RECORD, InstalledBundle, installed_dir, read_installed, read_record
from llcuda.native.libraries import child_environment, find_nccl, library_folders

__all__ = [
    "INSTALL_AGAIN",
    "RECORD",
    "Backend",
    "BuildInfo",
    "InstalledBundle",
    "Problem",
    "binaries_dir",
    "check_binaries",
    "child_environment",
    "exec_tool",
    "find_backends",
    "find_executable",
    "find_guard",
    "find_nccl",
    "installed_dir",
    "library_folders",
    "package_dir",
    "read_backend",
    "read_build_info",
    "read_installed",
    "read_record",
]
