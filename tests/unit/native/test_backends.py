"""Which CUDA backends the package carries, and where their libraries are found."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

import llcuda
from llcuda import native
from llcuda.cli import doctor
from llcuda.errors import BinaryUnusableError
from llcuda.native import libraries

CUDA = {
    "driver_floor": "550.54.14",
    "compression": "size",
    "flash_attention": True,
    "cuda_graphs": True,
    "runtime": "static",
    "cublas": "libcublas.so.12",
}


def write_build(folder: Path, *, tag: str = "b11434", **changes: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    library = b"\x7fELF, or near enough"
    (folder / "libggml-cuda.so").write_bytes(library)
    digest = f"sha256:{hashlib.sha256(library).hexdigest()}"
    build = {
        "schema": 1,
        "llama_cpp": {"tag": tag, "version": "0.6.0", "commit": tag},
        "profile": folder.name,
        "compiler": "gcc 12",
        "flags": {},
        "cpu_variants": [],
        "cpu_features": [],
        "toolkit": None,
        "architectures": [],
        "date": "2026-01-01T00:00:00Z",
        "files": {"libggml-cuda.so": {"sha256": digest, "bytes": len(library), "executable": False}},
        **changes,
    }
    (folder / "BUILD.json").write_text(json.dumps(build))


@pytest.fixture
def binaries(tmp_path: Path) -> Path:
    folder = tmp_path / "llcuda" / "binaries"
    write_build(folder)
    return folder


def add_backend(binaries: Path, name: str, *, toolkit: str, **changes: Any) -> None:
    architectures = ["sm_75", "compute_90"]
    write_build(binaries / name, toolkit=toolkit, architectures=architectures, **{"cuda": CUDA, **changes})


def test_without_a_backend_there_is_none(binaries: Path) -> None:
    assert native.find_backends(binaries) == ()


def test_a_backend_is_what_its_record_says_and_the_newest_toolkit_comes_first(binaries: Path) -> None:
    add_backend(binaries, "cuda12", toolkit="12.9.86")
    add_backend(binaries, "cuda13", toolkit="13.0.88")
    newest, older = native.find_backends(binaries)
    assert (newest.name, older.name) == ("cuda13", "cuda12")
    assert older == native.Backend(
        name="cuda12",
        library=binaries / "cuda12" / "libggml-cuda.so",
        toolkit="12.9.86",
        architectures=("sm_75", "compute_90"),
        driver_floor="550.54.14",
        compression="size",
        flash_attention=True,
        cuda_graphs=True,
        cublas="libcublas.so.12",
    )


def test_a_backend_of_another_build_is_refused_with_both_names(binaries: Path) -> None:
    add_backend(binaries, "cuda12", toolkit="12.9.86", tag="b11433")
    with pytest.raises(BinaryUnusableError, match=r"built for llama\.cpp b11433, and the executables are b11434"):
        native.find_backends(binaries)


def test_a_backend_that_is_cut_short_is_refused(binaries: Path) -> None:
    add_backend(binaries, "cuda12", toolkit="12.9.86")
    (binaries / "cuda12" / "libggml-cuda.so").write_bytes(b"\x7fELF")
    with pytest.raises(BinaryUnusableError, match="4 bytes, expected 20"):
        native.find_backends(binaries)


@pytest.mark.parametrize("changes", [{"toolkit": None}, {"cuda": None}])
def test_a_record_that_describes_no_backend_is_refused(binaries: Path, changes: dict[str, Any]) -> None:
    add_backend(binaries, "cuda12", **{"toolkit": "12.9.86", **changes})
    with pytest.raises(BinaryUnusableError, match="does not describe a CUDA backend"):
        native.find_backends(binaries)


def put_library(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()
    return folder


@pytest.fixture
def backend(binaries: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> native.Backend:
    monkeypatch.setattr(llcuda, "__path__", [str(tmp_path / "llcuda")])
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    add_backend(binaries, "cuda12", toolkit="12.9.86")
    return native.find_backends(binaries)[0]


def test_the_library_path_has_the_wheels_then_torch_then_cuda_home_and_the_users_last(
    backend: native.Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = put_library(tmp_path / "torch" / "lib", "libcublas.so.12")
    wheel = put_library(tmp_path / "nvidia" / "cublas" / "lib", "libcublas.so.12")
    toolkit = put_library(tmp_path / "toolkit" / "lib64", "libcublas.so.12")
    put_library(tmp_path / "nvidia" / "cu13" / "lib", "libcublas.so.13")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "toolkit"))
    monkeypatch.setenv("LD_LIBRARY_PATH", "/mine:/usr/local/cuda/compat")
    environment = native.child_environment(Path("/x/llama-server"), backend=backend)
    entries = environment["LD_LIBRARY_PATH"].split(":")
    expected = [Path("/x"), backend.library.parent, wheel, torch, toolkit]
    assert entries[: len(expected)] == [str(path) for path in expected]
    assert entries[-1] == "/mine"
    assert environment["GGML_BACKEND_PATH"] == str(backend.library)


@pytest.fixture
def nccl_backend(backend: native.Backend, binaries: Path) -> native.Backend:
    add_backend(binaries, backend.name, toolkit=backend.toolkit, cuda={**CUDA, "nccl": True})
    return native.find_backends(binaries)[0]


def test_nccl_is_found_like_cublas_for_a_backend_that_was_built_with_it(
    backend: native.Backend, nccl_backend: native.Backend, *, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = put_library(tmp_path / "torch" / "lib", "libnccl.so.2")
    toolkit = put_library(tmp_path / "toolkit" / "lib", "libnccl.so.2")
    wheel = put_library(tmp_path / "nvidia" / "nccl" / "lib", "libnccl.so.2")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "toolkit"))
    assert (backend.nccl, nccl_backend.nccl) == (False, True)
    assert not {torch, toolkit, wheel} & set(native.library_folders(backend))
    found = [folder for folder in native.library_folders(nccl_backend) if folder in {torch, toolkit, wheel}]
    assert found == [wheel, torch, toolkit]
    entries = native.child_environment(Path("/x/llama-server"), backend=nccl_backend)["LD_LIBRARY_PATH"].split(":")
    assert str(wheel) in entries


@pytest.mark.usefixtures("backend")
def test_nccl_is_found_in_the_wheel_torch_cuda_home_the_system_and_what_the_user_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, mine = tmp_path / "system", tmp_path / "mine"
    monkeypatch.setattr(libraries, "_SYSTEM_FOLDERS", (system,))
    monkeypatch.setattr(libraries, "_site_folders", lambda: [tmp_path])
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "toolkit"))
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/nonesuch:{mine}")
    assert native.find_nccl() is None
    places = (tmp_path / "nvidia" / "nccl" / "lib", tmp_path / "torch" / "lib", tmp_path / "toolkit" / "lib64")
    for folder in (mine, system, *reversed(places)):
        put_library(folder, "libnccl.so.2")
        assert native.find_nccl() == folder / "libnccl.so.2"
        assert llcuda.BinaryInstaller().get_binary_paths()["nccl_lib"] == folder / "libnccl.so.2"


def test_only_folders_that_hold_the_library_are_searched(backend: native.Backend, tmp_path: Path) -> None:
    (tmp_path / "nvidia" / "cublas" / "lib").mkdir(parents=True)
    assert [folder for folder in native.library_folders(backend) if tmp_path in folder.parents] == [
        backend.library.parent
    ]


def test_the_drivers_own_folder_comes_after_those_of_cublas(
    backend: native.Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = put_library(tmp_path / "driver", "libcuda.so.1")
    monkeypatch.setattr(libraries, "_DRIVER_FOLDERS", (tmp_path / "nowhere", driver))
    put_library(tmp_path / "nvidia" / "cublas" / "lib", "libcublas.so.12")
    assert native.library_folders(backend)[-1] == driver
    assert tmp_path / "nowhere" not in native.library_folders(backend)


def test_the_same_cublas_in_another_environment_folder_is_found(
    backend: native.Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "elsewhere"
    monkeypatch.syspath_prepend(str(other))
    found = put_library(other / "nvidia" / "cublas" / "lib", "libcublas.so.12")
    assert found in native.library_folders(backend)


def test_without_a_backend_the_packages_own_executables_load_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGML_BACKEND_PATH", "/somewhere/libggml-cuda.so")
    assert "GGML_BACKEND_PATH" not in native.child_environment(native.binaries_dir().absolute() / "llama-server")
    assert "GGML_BACKEND_PATH" in native.child_environment(Path("/x/llama-server"))


def test_the_doctor_reads_every_byte_of_the_backends_too(binaries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_backend(binaries, "cuda12", toolkit="12.9.86")
    monkeypatch.setattr(native, "binaries_dir", lambda: binaries)
    assert [finding.ok for finding in doctor._examine_files("files")] == [True]
    library = binaries / "cuda12" / "libggml-cuda.so"
    library.write_bytes(library.read_bytes()[::-1])
    (finding,) = doctor._examine_files("files")
    assert not finding.ok
    assert f"{library}: its digest is " in finding.found
