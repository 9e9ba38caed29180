"""The built wheel, installed in each of the ways that people install: it finds its llama-server and answers."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.places import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

README = (ROOT / "README.md").read_text(encoding="utf-8")
SETTINGS = ("LLAMA_", "LLAMACPP_", "LLCUDA_", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
PROBE = """
import json, os, llcuda, llcuda.native
server = llcuda.native.find_executable()
print(json.dumps({"package": os.path.dirname(llcuda.__file__), "server": str(server), "problems": [
    str(problem) for problem in llcuda.native.check_binaries(digests=True)]}))
"""
ASK = ("-m", "llcuda", "infer", "-m", "demo", "-p", "What is 2+2?")
# A process of root minus these obeys the modes of files like anybody else's.
WITHOUT_OVERRIDE = "-dac_override,-dac_read_search"


def run(*command: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(SETTINGS)}
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**kept, "HOME": str(cwd), **(env or {})},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip_install(python: Path, *arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    # The demo model needs no dependency, so none is installed and no index is asked.
    pip = (sys.executable, "-m", "pip", "--python", python)
    return run(*pip, "install", "--no-deps", "--no-index", "--no-compile", *arguments, cwd=cwd, env=env)


def make_environment(folder: Path) -> Path:
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    return folder / "bin" / "python"


def probe(
    python: str | Path, *, cwd: Path, prefix: tuple[str, ...] = (), env: Mapping[str, str] | None = None
) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(run(*prefix, python, "-c", PROBE, cwd=cwd, env=env))
    assert result["problems"] == []
    return result


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of a new environment that holds the wheel and nothing else."""
    folder = tmp_path_factory.mktemp("fresh")
    python = make_environment(folder / "venv")
    pip_install(python, wheel, cwd=folder)
    return python


@pytest.fixture
def read_only(fresh: Path) -> Iterator[Path]:
    """Take every write permission from the environment's packages for the length of a test."""
    (packages,) = (fresh.parents[1] / "lib").glob("python*/site-packages")
    touched = [path for path in [packages, *packages.rglob("*")] if not path.is_symlink()]
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in touched}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    yield packages
    for path, mode in modes.items():
        path.chmod(mode)


def test_a_fresh_environment_finds_its_server_and_answers(fresh: Path, tmp_path: Path) -> None:
    result = probe(fresh, cwd=tmp_path)
    assert Path(result["server"]).parent == Path(result["package"]) / "binaries"
    assert "4" in run(fresh, *ASK, cwd=tmp_path)


def test_the_command_of_the_readme_answers(fresh: Path, tmp_path: Path) -> None:
    assert "4" in run(fresh.parent / "llcuda", *ASK[2:], cwd=tmp_path)


@pytest.mark.parametrize("tool", ["server", "cli", "bench", "quantize", "embedding"])
def test_a_pass_through_tool_is_llama_cpps_own(fresh: Path, tmp_path: Path, tool: str) -> None:
    done = subprocess.run(
        [fresh.parent / f"llcuda-{tool}", "--help"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode in {0, 1}  # llama-quantize counts asking for help as wrong use
    assert "usage" in (done.stdout + done.stderr).lower()


def test_a_target_folder_is_enough(wheel: Path, tmp_path: Path) -> None:
    """Installs with `pip install --target`, for a Python that does not have the package."""
    python = make_environment(tmp_path / "venv")
    pip_install(python, wheel, "--target", tmp_path / "target", cwd=tmp_path)
    found = {"PYTHONPATH": str(tmp_path / "target")}
    result = probe(python, cwd=tmp_path, env=found)
    assert Path(result["server"]) == tmp_path / "target/llcuda/binaries/llama-server"
    assert "4" in run(python, *ASK, cwd=tmp_path, env=found)


def test_read_only_packages_are_enough(read_only: Path, fresh: Path, tmp_path: Path) -> None:
    prefix = without_override()
    refused = subprocess.run([*prefix, "touch", str(read_only / "llcuda/x")], capture_output=True, check=False)
    assert refused.returncode != 0, "the packages can be written to: the test would prove nothing"
    assert Path(probe(fresh, cwd=tmp_path, prefix=prefix)["server"]).is_relative_to(read_only)
    assert "4" in run(*prefix, fresh, *ASK, cwd=tmp_path)


def without_override() -> tuple[str, ...]:
    if os.geteuid() != 0:
        return ()
    setpriv = shutil.which("setpriv")
    assert setpriv, "root ignores file modes; setpriv (util-linux) makes it obey them"
    return (setpriv, f"--bounding-set={WITHOUT_OVERRIDE}", f"--inh-caps={WITHOUT_OVERRIDE}")


def test_an_editable_install_runs_the_source_with_the_built_binaries(tmp_path: Path) -> None:
    """Builds in the persistent build folder, where every object lies since the wheel was built: none is made again."""
    python = make_environment(tmp_path / "venv")
    # The build tools are those of the environment that runs the tests: no index is asked.
    tools = {
        "HOME": str(Path.home()),
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}",
    }
    settings = [f"--config-settings={setting}" for setting in os.environ.get("LLCUDA_TEST_SETTINGS", "").split()]
    was_built = any(ROOT.glob("build/release/CMakeCache.txt" if settings else "build/py3-none-*/CMakeCache.txt"))
    arguments = ["--verbose", "--no-build-isolation", *settings, "--editable", str(ROOT)]
    log = pip_install(python, *arguments, cwd=tmp_path, env=tools)
    assert not was_built or "Building C" not in log
    result = probe(python, cwd=tmp_path)
    assert Path(result["package"]) == ROOT / "src/llcuda"
    assert (
        Path(result["server"]).is_relative_to(tmp_path / "venv") or (ROOT / "src/llcuda/binaries/BUILD.json").exists()
    )
    assert "4" in run(python, *ASK, cwd=tmp_path)


@pytest.mark.parametrize("line", re.findall(r"^\| (?:in|as) a[^|]*\| `(.*)` \|$", README, re.MULTILINE))
def test_an_install_line_of_the_readme_works(line: str, wheel: Path, tmp_path: Path) -> None:
    """Runs it as it stands, with the wheel for the clone; what it depends on comes from the package index."""
    scripts = sysconfig.get_path("scripts")
    variables = {"PATH": f"{scripts}:{os.environ['PATH']}", "UV_PYTHON": sys.executable, "UV_LINK_MODE": "copy"}
    run("bash", "-euc", line.replace("'.[", f"'{wheel}["), cwd=tmp_path, env=variables)
    (program,) = [path for path in (tmp_path / ".venv/bin/llcuda", tmp_path / ".local/bin/llcuda") if path.exists()]
    assert "4" in run(program, *ASK[2:], cwd=tmp_path)
    command = [str(program), "serve", "-m", "demo", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert any("llcuda serves demo" in said for said in process.stderr)
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 0
