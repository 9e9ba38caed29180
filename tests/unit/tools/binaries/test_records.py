from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

from tools.binaries.elf import ElfFile, is_elf, read_elf
from tools.binaries.errors import PreparationError
from tools.binaries.records import check_backend, check_directory, check_elf, list_chosen, read_record, write_record

FACTS: dict[str, Any] = {
    "llama_cpp": {"tag": "b1", "version": "0.0.1", "commit": "b1"},
    "profile": "native",
    "compiler": "GNU 12.2.0",
    "flags": {},
    "cpu_variants": ["ggml-cpu"],
    "cpu_features": ["AVX2"],
    "toolkit": None,
    "architectures": [],
}
GOOD = ElfFile(
    needed=("libggml.so", "libc.so.6"),
    soname=None,
    rpath=None,
    runpath="$ORIGIN",
    is_executable=True,
    is_pie=True,
    has_relro=True,
    binds_now=True,
    has_executable_stack=False,
    is_stripped=True,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    directory = tmp_path / "binaries"
    directory.mkdir()
    (directory / "tool").write_text("#!/bin/sh\n")
    (directory / "tool").chmod(0o755)
    (directory / "data.txt").write_text("data")
    write_record(directory, facts=FACTS)
    return directory


def test_a_record_holds_the_facts_and_every_file(folder: Path) -> None:
    record = read_record(folder)
    assert {key: record[key] for key in FACTS} == FACTS
    assert record["files"]["tool"] == {
        "sha256": "sha256:a8076d3d28d21e02012b20eaf7dbf75409a6277134439025f282e368e3305abf",
        "bytes": 10,
        "executable": True,
    }
    assert sorted(record["files"]) == ["data.txt", "tool"]


def test_a_record_is_dated_by_source_date_epoch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    write_record(folder, facts=FACTS)
    assert read_record(folder)["date"] == "2023-11-14T22:13:20+00:00"


def test_a_record_leaves_out_a_folder_that_has_its_own(folder: Path) -> None:
    (folder / "cuda12").mkdir()
    (folder / "cuda12/libggml-cuda.so").write_text("x")
    write_record(folder / "cuda12", facts=FACTS)
    assert check_directory(folder) == []
    assert check_directory(folder / "cuda12") == []


def test_a_whole_folder_has_no_problems(folder: Path) -> None:
    assert check_directory(folder) == []


def test_every_kind_of_damage_is_named(folder: Path) -> None:
    (folder / "data.txt").write_text("date")
    (folder / "tool").chmod(0o644)
    (folder / "stray").write_text("x")
    problems = "\n".join(check_directory(folder))
    assert "data.txt: its sha256 is not the one in BUILD.json" in problems
    assert "tool: execute bit is missing: chmod +x" in problems
    assert "stray: not in BUILD.json" in problems


def test_a_missing_and_a_shortened_file_are_named(folder: Path) -> None:
    (folder / "tool").unlink()
    (folder / "data.txt").write_text("dat")
    assert check_directory(folder) == [
        "tool: in BUILD.json, but not there",
        "data.txt: has 3 bytes, BUILD.json says 4",
    ]


def test_a_link_is_named_even_when_its_content_is_right(folder: Path) -> None:
    (folder / "data.txt").rename(folder.parent / "elsewhere")
    (folder / "data.txt").symlink_to(folder.parent / "elsewhere")
    assert check_directory(folder) == ["data.txt: is a link; a wheel holds none"]


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 2, "files": {}}', '{"schema": 1}'])
def test_a_damaged_record_is_refused(folder: Path, text: str) -> None:
    (folder / "BUILD.json").write_text(text)
    with pytest.raises(PreparationError, match=r"BUILD.json is (damaged|not a record)"):
        read_record(folder)


def test_a_missing_record_says_how_to_build(tmp_path: Path) -> None:
    with pytest.raises(PreparationError, match=r"No such file or directory\. Build first"):
        read_record(tmp_path)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"needed": ("libcuda.so.1",)}, "needs libcuda.so.1, which is neither here"),
        ({"runpath": None}, "looks for its libraries in None"),
        ({"runpath": "$ORIGIN:/opt/lib"}, "looks for its libraries in '$ORIGIN:/opt/lib'"),
        ({"runpath": None, "rpath": "$ORIGIN"}, None),
        ({"needed": ("libc.so.6",), "runpath": None}, None),
        ({"soname": "tool.so.1"}, "calls itself tool.so.1"),
        ({"soname": "tool"}, None),
        ({"is_pie": False}, "is not a position-independent executable"),
        ({"is_pie": False, "is_executable": False}, None),
        ({"has_relro": False}, "is not linked with RELRO"),
        ({"binds_now": False}, "is not linked with BIND_NOW"),
        ({"has_executable_stack": True}, "is not free of an executable stack"),
        ({"is_stripped": False}, "is not stripped"),
    ],
)
def test_an_elf_file_is_judged_by_the_rules_of_the_wheel(changes: dict[str, Any], problem: str | None) -> None:
    found = list(check_elf(dataclasses.replace(GOOD, **changes), name="tool", libraries={"libggml.so"}))
    assert len(found) == (problem is not None)
    assert problem is None or found[0].startswith(problem)


def test_the_running_python_is_read_as_an_executable() -> None:
    elf = read_elf(Path(sys.executable).resolve())
    assert elf.is_executable
    assert any(name.startswith("libc.so") for name in elf.needed)


def test_what_is_not_elf_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"#!/bin/sh\n")
    assert not is_elf(path)
    with pytest.raises(ValueError, match="not a 64-bit"):
        read_elf(path)


@pytest.mark.parametrize("keep", [6, 20, 64, 500])
def test_a_cut_elf_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "x"
    path.write_bytes(Path(sys.executable).resolve().read_bytes()[:keep])
    with pytest.raises(ValueError, match="damaged ELF"):
        read_elf(path)


@pytest.mark.parametrize("cuda", [None, {}, {"nccl": False}, {"nccl": True}])
def test_a_backend_may_need_nccl_only_where_its_record_says_so(cuda: dict[str, bool] | None) -> None:
    needed = ("libggml-base.so", "libcuda.so.1", "libnccl.so.2")
    elf = dataclasses.replace(GOOD, needed=needed, runpath="$ORIGIN:$ORIGIN/..")
    problems = list(check_backend(elf, name="libggml-cuda.so", libraries=list_chosen({**FACTS, "cuda": cuda})))
    assert bool(problems) == (not (cuda or {}).get("nccl"))
    assert all(problem.startswith("needs libnccl.so.2") for problem in problems)
