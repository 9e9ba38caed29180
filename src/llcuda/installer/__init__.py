"""Install binaries that the wheel does not carry, such as a CUDA backend: choose, verify, prove, and go back."""

from __future__ import annotations

from llcuda.installer.bundles import Bundle
from llcuda.installer.install import BinaryInstaller, Plan
from llcuda.installer.proof import Proof
from llcuda.installer.sources import HUB_SOURCE, open_source

__all__ = ["HUB_SOURCE", "BinaryInstaller", "Bundle", "Plan", "Proof", "open_source"]
