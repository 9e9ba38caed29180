"""What a wheel depends on because of the binaries staged in it: cuBLAS for each CUDA backend, nothing for the CPU.

A dense quantised model runs without cuBLAS on compute capability 6.1 and from 7.5 on, and a backend opens it only when
it is needed. But older GPUs need it for every prompt, and all of them for F16 weights and for mixtures of experts, so a
wheel that promises those depends on it. It is a range: any of CUDA 12's will do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tools.binaries.bundle import STAGED
from tools.binaries.records import list_toolkits

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Provider", "list_requirements"]

CUBLAS = {"12": "nvidia-cublas-cu12>=12.4.5.8,<13", "13": "nvidia-cublas>=13.0.2.14,<14"}


class Provider:
    """Adds to the project's dependencies; scikit-build-core says first what is being built."""

    def __init__(self) -> None:
        self.state = ""

    def build_state(self, state: str) -> None:
        self.state = state

    def dynamic_metadata(self, _settings: Mapping[str, Any], _project: Mapping[str, Any]) -> dict[str, list[str]]:
        # An sdist holds no binaries, whatever is staged.
        return {"dependencies": [] if self.state == "sdist" else list_requirements(STAGED)}


def list_requirements(binaries: Path) -> list[str]:
    """Return the requirements of the CUDA backends in a binaries folder, which need not exist."""
    return sorted(CUBLAS[toolkit.partition(".")[0]] for toolkit in list_toolkits(binaries))
