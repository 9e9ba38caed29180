"""Where executables are looked for, what is said of them, and the environment that they get."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

import llcuda
from llcuda import native
from llcuda.errors import BinaryNotFoundError, BinaryUnusableError
from llcuda.native import build_info, executables

VARIABLES = ("LLAMA_SERVER_PATH", "LLAMA_BIN_DIR", "LLAMA_CPP_DIR", "LLCUDA_HOME", "LD_LIBRARY_PATH")


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Five folders, none of which exists yet, for the five places."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LLCUDA_HOME", str(tmp_path / "home"))
    for module in (build_info, executables):
        for name in ("binaries_dir", "package_dir"):
            monkeypatch.setattr(module, name, lambda: tmp_path / "package")
    return {
        "exact": tmp_path / "exact" / "my-server",
        "bin": tmp_path / "bin" / "llama-server",
        "package": tmp_path / "package" / "llama-server",
        "cpp": tmp_path / "cpp" / "bin" / "llama-server",
        "home": tmp_path / "home" / "binaries" / llcuda.__version__ / "llama-server",
    }


def put(path: Path, *, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


def set_variables(monkeypatch: pytest.MonkeyPatch, places: dict[str, Path]) -> None:
    monkeypatch.setenv("LLAMA_SERVER_PATH", str(places["exact"]))
    monkeypatch.setenv("LLAMA_BIN_DIR", str(places["bin"].parent))
    monkeypatch.setenv("LLAMA_CPP_DIR", str(places["cpp"].parent.parent))


@pytest.mark.parametrize("first", range(1, 5))
def test_the_first_place_that_has_it_wins(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    set_variables(monkeypatch, places)
    monkeypatch.delenv("LLAMA_SERVER_PATH")
    for path in list(places.values())[first:]:
        put(path)
    assert native.find_executable() == list(places.values())[first]


def test_the_exact_path_comes_before_everything(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, places)
    for path in places.values():
        put(path)
    assert native.find_executable() == places["exact"]


def test_an_exact_path_that_leads_nowhere_is_not_replaced_by_another(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(monkeypatch, places)
    put(places["package"])
    with pytest.raises(BinaryNotFoundError) as caught:
        native.find_executable()
    assert caught.value.searched == (f"LLAMA_SERVER_PATH: {places['exact']}",)


def test_the_exact_path_is_for_llama_server_alone(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, places)
    tool = put(places["package"].with_name("llama-quantize"))
    assert native.find_executable("llama-quantize") == tool


def test_the_error_lists_every_place_in_order(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, places)
    monkeypatch.delenv("LLAMA_SERVER_PATH")
    with pytest.raises(BinaryNotFoundError, match="llama-server was not found") as caught:
        native.find_executable()
    assert caught.value.searched == (
        f"LLAMA_BIN_DIR: {places['bin']}",
        f"the package: {places['package']}",
        f"LLAMA_CPP_DIR: {places['cpp']}",
        f"installed by llcuda: {places['home']}",
    )
    assert isinstance(caught.value, FileNotFoundError)


def test_path_is_never_searched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put(tmp_path / "path" / "llama-server")
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    with pytest.raises(BinaryNotFoundError):
        native.find_executable()


def test_a_file_without_execute_bit_is_named_with_the_command_that_helps(places: dict[str, Path]) -> None:
    put(places["package"], mode=0o644)
    with pytest.raises(BinaryUnusableError, match="no execute permission") as caught:
        native.find_executable()
    assert caught.value.hint == f"Run: chmod +x '{places['package']}'"


def test_a_folder_is_not_an_executable(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    places["exact"].mkdir(parents=True)
    monkeypatch.setenv("LLAMA_SERVER_PATH", str(places["exact"]))
    with pytest.raises(BinaryUnusableError, match="not a file"):
        native.find_executable()


def test_a_relative_path_is_made_absolute(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put(places["exact"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLAMA_SERVER_PATH", "exact/my-server")
    assert native.find_executable() == places["exact"]


def test_the_guard_comes_from_the_package_only(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, places)
    put(places["bin"].with_name("llcuda-guard"))
    with pytest.raises(BinaryNotFoundError, match="llcuda-guard"):
        native.find_guard()
    guard = put(places["package"].with_name("llcuda-guard"))
    assert native.find_guard() == guard


def test_both_halves_of_an_editable_install_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(llcuda, "__path__", [str(tmp_path / "sources"), str(tmp_path / "built")])
    assert native.binaries_dir() == tmp_path / "sources" / "binaries"
    (tmp_path / "built" / "binaries").mkdir(parents=True)
    assert native.binaries_dir() == tmp_path / "built" / "binaries"


def test_the_library_path_has_the_executables_folder_first_and_the_users_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/mine::/also/mine:/x/binaries")
    environment = native.child_environment(Path("/x/binaries/llama-server"))
    assert environment["LD_LIBRARY_PATH"] == "/x/binaries:/mine:/also/mine"


@pytest.mark.parametrize(
    "entry", ["/usr/local/cuda/compat", "/usr/local/cuda-12.9/compat", "/usr/local/cuda/compat/lib.real"]
)
def test_cudas_compatibility_folder_is_left_out(monkeypatch: pytest.MonkeyPatch, entry: str) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{entry}:/usr/local/cuda/lib64:/opt/compat")
    environment = native.child_environment(Path("/x/llama-server"))
    assert environment["LD_LIBRARY_PATH"] == "/x:/usr/local/cuda/lib64:/opt/compat"


def test_the_environment_of_this_process_is_not_touched() -> None:
    before = dict(os.environ)
    environment = native.child_environment(Path("/x/llama-server"), extra={"LLAMA_API_KEY": "k"})
    assert environment["LLAMA_API_KEY"] == "k"
    assert dict(os.environ) == before


def write_build(folder: Path, **changes: Any) -> dict[str, Any]:
    """Make a folder of two files, with a BUILD.json that says so."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, executable in (("llama-server", True), ("libllama.so", False)):
        path = put(folder / name, mode=0o755 if executable else 0o644)
        data = path.read_bytes()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        files[name] = {"sha256": digest, "bytes": len(data), "executable": executable}
    build: dict[str, Any] = {
        "schema": 1,
        "llama_cpp": {"tag": "b11434", "version": "0.6.0", "commit": "abc", "patches": ["0001-x.patch"]},
        "profile": "native",
        "compiler": "gcc 12",
        "flags": {"GGML_NATIVE": "OFF"},
        "cpu_variants": ["ggml-cpu"],
        "cpu_features": ["AVX2"],
        "toolkit": None,
        "architectures": [],
        "date": "2026-01-01T00:00:00Z",
        "files": files,
        **changes,
    }
    (folder / "BUILD.json").write_text(json.dumps(build))
    return build


def test_build_information_is_read(tmp_path: Path) -> None:
    write_build(tmp_path)
    info = native.read_build_info(tmp_path)
    assert (info.llama_cpp_tag, info.profile) == ("b11434", "native")
    assert info.llama_cpp_patches == ("0001-x.patch",)
    assert info.cpu_variants == ("ggml-cpu",)
    assert info.files["llama-server"].executable
    assert info.files["libllama.so"].sha256.startswith("sha256:")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema": 2}', "null", '{"schema": 1}', '{"schema": 1, "llama_cpp": 3}']
)
def test_a_damaged_build_file_is_an_error_of_ours(tmp_path: Path, text: str) -> None:
    (tmp_path / "BUILD.json").write_text(text)
    with pytest.raises(BinaryUnusableError, match="damaged"):
        native.read_build_info(tmp_path)


def test_whole_binaries_have_no_problem(tmp_path: Path) -> None:
    write_build(tmp_path)
    assert native.check_binaries(tmp_path) == ()
    assert native.check_binaries(tmp_path, digests=True) == ()


def test_a_missing_build_file_is_a_problem_with_a_remedy(tmp_path: Path) -> None:
    (problem,) = native.check_binaries(tmp_path)
    assert problem.path == tmp_path / "BUILD.json"
    assert "missing" in problem.what
    assert "Reinstall" in problem.remedy


def test_each_kind_of_damage_is_named(tmp_path: Path) -> None:
    write_build(tmp_path)
    (tmp_path / "libllama.so").unlink()
    (tmp_path / "llama-server").chmod(0o644)
    missing, mode = sorted(native.check_binaries(tmp_path), key=lambda problem: problem.path.name)
    assert "missing" in missing.what
    assert "execute permission" in mode.what
    assert mode.remedy == f"Run: chmod +x '{tmp_path / 'llama-server'}'"


def test_a_changed_size_is_seen_without_reading_the_file(tmp_path: Path) -> None:
    write_build(tmp_path)
    (tmp_path / "libllama.so").write_text("longer than before, surely")
    (problem,) = native.check_binaries(tmp_path)
    assert "bytes, expected" in problem.what


def test_a_changed_byte_is_seen_when_digests_are_asked_for(tmp_path: Path) -> None:
    write_build(tmp_path)
    (tmp_path / "libllama.so").write_text("#!/bin/sX\n")
    assert native.check_binaries(tmp_path) == ()
    (problem,) = native.check_binaries(tmp_path, digests=True)
    assert "digest" in problem.what


def test_the_packages_folder_is_checked_when_none_is_named(tmp_path: Path) -> None:
    write_build(tmp_path / "package")
    assert native.check_binaries() == ()
