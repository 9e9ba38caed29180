"""What the tests run with: the executables in use, a model to load, and a stand-in for llama-server."""

from __future__ import annotations

import functools
import gc
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from httpx import create_ssl_context

import llcuda
from llcuda.native import binaries_dir
from tests.made_models.tiny_model import write_tiny_model
from tests.places import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

FLAGS = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]


def pytest_configure() -> None:
    """Let Ctrl-C work: a shell's background job ignores it, and so would everything that is started from here."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


_LONGEST = (
    "test_schemathesis", "test_soak", "test_install", "test_upgrade", "test_sdist", "test_docs", "test_memory",
    "test_docs_serving", "test_page", "test_chat_page", "test_faults", "test_ladder", "test_demo_model", "test_remotes",
    "test_hosts", "test_isolation", "test_serving", "test_affinity", "test_listening", "test_body_fuzz",
)  # fmt: skip
"""The files that take longest: they begin first, so that no core waits for one of them at the end."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _LONGEST.index(item.path.stem) if item.path.stem in _LONGEST else len(_LONGEST))


def pytest_collection_finish() -> None:
    """Let nobody look again for garbage among what lives until the end: that takes longer than most tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def certificates() -> Iterator[None]:
    """Read the world's certificates once: every client of httpx would read them anew, in 50 ms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx._transports.default.create_ssl_context", functools.cache(create_ssl_context))
        yield


@pytest.fixture(scope="session")
def binaries() -> Path:
    """The folder of the executables in use: the installed package's, or those of a development build."""
    for folder in (binaries_dir(), ROOT / "build" / "dev" / "bin"):
        if (folder / "llama-server").exists():
            return folder
    pytest.fail("there is no llama-server: install the package, or build it into build/dev/bin")


@pytest.fixture(scope="session")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of llcuda-guard: the one in use, or else one that is compiled here."""
    for folder in (binaries_dir(), ROOT / "build" / "dev" / "bin"):
        if (folder / "llcuda-guard").exists():
            return folder / "llcuda-guard"
    return compile_guard(tmp_path_factory.mktemp("guard") / "llcuda-guard")


def compile_guard(target: Path, *options: str) -> Path:
    """Compile native/guard.c as it is."""
    command = ["gcc", *FLAGS, *options, str(ROOT / "native" / "guard.c"), "-o", str(target)]
    subprocess.run(command, check=True, timeout=60)
    return target


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights that loads in no time."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture(scope="session")
def demo_model(tiny_model: Path) -> Path:
    """The model inside the package, or the tiny one where it has not been built yet."""
    # An editable install has two folders: what was built, and the source.
    bundled = (Path(folder) / "models_data" / "demo.gguf" for folder in llcuda.__path__)
    return next((path for path in bundled if path.exists()), tiny_model)


@pytest.fixture
def fake_server(tmp_path: Path, guard: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a stand-in the llama-server in use: tests/standins/fake_llama_server.py, whose flags choose its faults."""
    script = Path(__file__).with_name("standins") / "fake_llama_server.py"
    server = tmp_path / "fake" / "llama-server"
    server.parent.mkdir()
    server.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {script} "$@"\n')
    server.chmod(0o755)
    monkeypatch.setenv("LLAMA_SERVER_PATH", str(server))
    monkeypatch.setattr("llcuda.server.manager.find_guard", lambda: guard)
    return server
