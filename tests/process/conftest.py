"""What several files of tests run with: a gateway for clients; a T4 that is not there, and bundles of its backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

import openai
import pytest

from tests.inputs.bundles import LIBRARY
from tests.process.gateway.clients.gateways import KEY, gateway
from tests.process.server.test_offload import compile_backends
from tests.upgrading import put_gpu, write_backend

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from llcuda.gateway.gateway import Gateway


@pytest.fixture(scope="module")
def running() -> Iterator[Gateway]:
    """A gateway that answers whoever has the key of ``tests.process.gateway.clients.gateways``."""
    with gateway() as running:
        yield running


@pytest.fixture(scope="module")
def client(running: Gateway) -> Iterator[openai.OpenAI]:
    """OpenAI's own client of that gateway, which asks once."""
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory, binaries: Path) -> Path:
    """The folder of the backends that work, and that do not."""
    return compile_backends(tmp_path_factory.mktemp("backends"), binaries)


@pytest.fixture
def bundle(tmp_path: Path, compiled: Path, binaries: Path) -> Path:
    """A bundle that works, beside its index."""
    return write_backend(tmp_path / "bundle", compiled / "fake" / LIBRARY, binaries=binaries)


@pytest.fixture
def upgradable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a T4 into this machine, with nothing installed for it."""
    for name in ("LLCUDA_OFFLINE", "HF_HUB_OFFLINE", "LOCAL_LLAMA_INFERENCE_NO_AUTO_INSTALL", "AUTO_UPGRADE_GPU"):
        monkeypatch.delenv(name, raising=False)
    put_gpu(monkeypatch.setattr)
    monkeypatch.setenv("GGML_FAKE_GPU", "4096")
    monkeypatch.setenv("LLCUDA_HOME", str(tmp_path / "home"))
