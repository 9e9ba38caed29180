"""Which GPUs a CUDA library has code for, as read from the library itself."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.tools.binaries.test_records import FACTS
from tools.binaries import requirements
from tools.binaries.bundle import pack, stage
from tools.binaries.errors import PreparationError
from tools.binaries.fatbin import GpuCode, read_gpu_code
from tools.binaries.records import check_architectures, check_directory, write_record
from tools.binaries.requirements import list_requirements

if TYPE_CHECKING:
    from pathlib import Path


def make_container(*entries: tuple[int, int, int]) -> bytes:
    """Return a container of (kind, architecture, payload bytes): kind 1 is PTX, 2 machine code."""
    body = b"".join(
        struct.pack("<HHIQIIHHI", kind, 0x101, 64, size, 0, 0, 0, 1, number).ljust(64, b"\0") + b"x" * size
        for kind, number, size in entries
    )
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def make_elf(section: bytes, *, name: bytes = b".nv_fatbin") -> bytes:
    """Return a file with one named section, as little of ELF as that takes."""
    names = b"\0" + name + b"\0.shstrtab\0"
    start = 64 + len(section) + len(names)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 0, start, 0, 64, 0, 0, 64, 3, 2)

    def describe(label: int, offset: int, size: int) -> bytes:
        return struct.pack("<IIQQQQIIQQ", label, 1, 0, 0, offset, size, 0, 0, 1, 0)

    table = describe(0, 0, 0) + describe(1, 64, len(section)) + describe(2 + len(name), 64 + len(section), len(names))
    return header + section + names + table


def write_library(path: Path, section: bytes, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(make_elf(section, **options))
    return path


def test_every_container_is_read_and_the_padding_between_them_is_not(tmp_path: Path) -> None:
    first = make_container((2, 75, 20), (2, 90, 24))
    section = first + b"\0" * (-len(first) % 8) + make_container((1, 90, 40))
    code = read_gpu_code(write_library(tmp_path / "libggml-cuda.so", section))
    assert code == [GpuCode("sm_75", 84), GpuCode("sm_90", 88), GpuCode("compute_90", 104)]


def test_a_library_without_gpu_code_has_none(tmp_path: Path) -> None:
    assert read_gpu_code(write_library(tmp_path / "x.so", b"data", name=b".data")) == []


@pytest.mark.parametrize(
    "section",
    [b"\0" * 16, make_container((2, 75, 20))[:-21], make_container((9, 75, 8)), b"PU"],
    ids=["no magic", "cut short", "unknown kind", "too short"],
)
def test_a_damaged_section_is_an_error_that_names_the_file(tmp_path: Path, section: bytes) -> None:
    with pytest.raises(ValueError, match=r"x\.so: its \.nv_fatbin section is damaged"):
        read_gpu_code(write_library(tmp_path / "x.so", section))


def test_code_that_is_not_recorded_and_a_record_without_code_are_both_named(tmp_path: Path) -> None:
    library = write_library(tmp_path / "libggml-cuda.so", make_container((2, 75, 8), (2, 120, 8), (1, 90, 8)))
    assert check_architectures(library, ["sm_75", "sm_120a", "compute_90"]) == []
    assert check_architectures(library, ["sm_75", "sm_86", "sm_120a"]) == [
        "libggml-cuda.so: no code for sm_86, which BUILD.json has",
        "libggml-cuda.so: has code for compute_90, not in BUILD.json",
    ]


def make_build(folder: Path, **facts: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "data").write_text(folder.name)
    write_record(folder, facts={**FACTS, **facts})
    return folder


@pytest.fixture
def executables(tmp_path: Path) -> Path:
    return make_build(tmp_path / "cpu")


def make_backend(install: Path, name: str, **facts: Any) -> Path:
    """Return the install folder of a build that made nothing but one backend."""
    make_build(install / name, profile=name, toolkit=f"{name[4:]}.9.86", **facts)
    return install


def test_backends_are_staged_beside_the_executables_in_folders_of_their_own(tmp_path: Path, executables: Path) -> None:
    backends = [make_backend(tmp_path / name, name) for name in ("cuda12", "cuda13")]
    target = tmp_path / "package" / "binaries"
    stage(executables, *backends, target=target)
    assert sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()) == [
        *("BUILD.json", "cuda12/BUILD.json", "cuda12/data", "cuda13/BUILD.json", "cuda13/data", "data"),
    ]
    assert check_directory(target) == []


def test_a_bundle_of_a_backend_is_staged_into_its_folder(tmp_path: Path, executables: Path) -> None:
    bundle = pack(make_backend(tmp_path / "b", "cuda12") / "cuda12", output=tmp_path / "out")
    target = tmp_path / "package" / "binaries"
    stage(executables, bundle, target=target)
    assert json.loads((target / "cuda12" / "BUILD.json").read_text())["profile"] == "cuda12"


def test_a_backend_that_is_given_twice_is_refused(tmp_path: Path, executables: Path) -> None:
    backends = [make_backend(tmp_path / name, "cuda12") for name in ("one", "two")]
    with pytest.raises(PreparationError, match="cuda12 is in two of the sources"):
        stage(executables, *backends, target=tmp_path / "package" / "binaries")


def test_backends_alone_are_whole_and_cannot_be_staged(tmp_path: Path) -> None:
    backend = make_backend(tmp_path / "b", "cuda12")
    assert check_directory(backend) == []
    with pytest.raises(PreparationError, match="none of the sources has the executables"):
        stage(backend, target=tmp_path / "package" / "binaries")


def test_a_backend_of_another_build_is_named_and_nothing_is_staged(tmp_path: Path, executables: Path) -> None:
    backend = make_backend(tmp_path / "b", "cuda12", llama_cpp={"tag": "b2"})
    target = tmp_path / "package" / "binaries"
    with pytest.raises(PreparationError, match=r"cuda12: built from llama\.cpp b2, the executables from b1"):
        stage(executables, backend, target=target)
    assert not target.exists()


def test_a_damaged_backend_is_named_with_its_folder(tmp_path: Path, executables: Path) -> None:
    target = tmp_path / "package" / "binaries"
    stage(executables, make_backend(tmp_path / "b", "cuda12"), target=target)
    (target / "cuda12" / "data").write_text("cuda21")
    assert check_directory(target) == ["cuda12/data: its sha256 is not the one in BUILD.json"]


def test_a_wheel_depends_on_cublas_for_its_backends_and_on_nothing_for_the_cpu(tmp_path: Path) -> None:
    binaries = make_build(tmp_path / "binaries")
    assert list_requirements(tmp_path / "nothing staged") == []
    assert list_requirements(binaries) == []
    make_backend(binaries, "cuda12")
    assert list_requirements(binaries) == ["nvidia-cublas-cu12>=12.4.5.8,<13"]
    make_backend(binaries, "cuda13")
    assert list_requirements(binaries) == ["nvidia-cublas-cu12>=12.4.5.8,<13", "nvidia-cublas>=13.0.2.14,<14"]


@pytest.mark.parametrize(("state", "added"), [("sdist", []), ("wheel", ["nvidia-cublas-cu12>=12.4.5.8,<13"])])
def test_only_what_holds_the_binaries_depends_on_what_is_staged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, state: str, added: list[str]
) -> None:
    monkeypatch.setattr(requirements, "STAGED", make_backend(make_build(tmp_path / "binaries"), "cuda12"))
    provider = requirements.Provider()
    provider.build_state(state)
    assert provider.dynamic_metadata({}, {}) == {"dependencies": added}
