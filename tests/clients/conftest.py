"""Other people's clients, each as it comes from its index. Without them, which `nox -s clients` installs, no tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from llcuda.gateway import GatewayConfig, KeyConfig, ModelConfig
from llcuda.gateway.gateway import Gateway
from tests.process.gateway.clients.gateways import KEY, gateway

if TYPE_CHECKING:
    from collections.abc import Iterator

NODE = os.environ.get("LLCUDA_TEST_NODE", "")
"""The folder that the packages of node are installed into."""
collect_ignore_glob = [] if find_spec("litellm") and NODE else ["test_*.py"]

# The prompts of agents are longer than what the demo model was made for. What it has said becomes less likely, so that
# it comes to its end, which is token 2.
_LONG = {
    "override_kv": "llama.context_length=int:65536", "logit_bias": "2+12", "frequency_penalty": 2.0,
    "repeat_last_n": 512, "temperature": 0.0, "n_predict": 2000,
}  # fmt: skip


class Program(Protocol):
    """Run a program, and return what it printed."""

    def __call__(self, *command: str, status: int = 0, **environment: str) -> str: ...


@pytest.fixture(scope="session")
def running() -> Iterator[Gateway]:
    with gateway(workers=1) as started:
        yield started


@pytest.fixture(scope="session")
def v1(running: Gateway) -> str:
    return f"{running.url}/v1"


@pytest.fixture(scope="session")
def for_agents() -> Iterator[Gateway]:
    """A gateway whose model has room for the prompts of agents."""
    served = ModelConfig("long", "demo", slots=1, ctx_size=65536, server_options=_LONG)
    with Gateway(GatewayConfig(models=(served,), port=0, keys=(KeyConfig("client", KEY),))) as started:
        yield started


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Run programs in a home of their own, with node's packages at hand."""

    def run(*command: str, status: int = 0, **environment: str) -> str:
        path = os.pathsep.join((str(Path(NODE) / "node_modules" / ".bin"), os.environ["PATH"]))
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, timeout=280,
            env={"HOME": str(tmp_path), "NO_PROXY": "127.0.0.1", "PATH": path, **environment},
        )  # fmt: skip
        assert done.returncode == status, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


def run_script(program: Program, script: Path, *arguments: str) -> str:
    """Run a script of node, which looks for its packages beside itself."""
    return program("node", shutil.copy(script, NODE), *arguments)
