"""Exactly what is in the wheel."""

from __future__ import annotations

import configparser
import json
import os
import re
import stat
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.places import ROOT
from tools.binaries.elf import is_elf, read_elf
from tools.binaries.lock import TREE_PATH, read_lock
from tools.binaries.records import check_directory, list_backends, read_record
from tools.binaries.web_ui import ARCHIVE_NAME, LICENCES_NAME, PACKAGES_NAME, read_packages

EXECUTABLES = {
    "llama-batched-bench",
    "llama-bench",
    "llama-cli",
    "llama-embedding",
    "llama-fit-params",
    "llama-gguf-split",
    "llama-imatrix",
    "llama-perplexity",
    "llama-quantize",
    "llama-server",
    "llcuda-guard",
}
LIBRARIES = {"libggml-base.so", "libggml.so", "libllama-common.so", "libllama.so", "libmtmd.so"}
VARIANTS = {
    "native": {"libggml-cpu.so"},
    "all": {
        f"libggml-cpu-{name}.so"
        for name in [
            *("x64", "sse42", "sandybridge", "ivybridge", "piledriver", "haswell", "skylakex", "cannonlake"),
            *("cascadelake", "cooperlake", "icelake", "alderlake", "zen4", "sapphirerapids"),
        ]
    },
}
MAX_WHEEL_BYTES = 20_000_000
MAX_CUDA_WHEEL_BYTES = 200_000_000
CUBLAS = {"cuda12": "nvidia-cublas-cu12<13,>=12.4.5.8", "cuda13": "nvidia-cublas<14,>=13.0.2.14"}
CUBLAS_FOLDER = {"cuda12": "nvidia/cublas/lib", "cuda13": "nvidia/cu13/lib"}
NOTICES = {
    "llamafile-sgemm.txt": "ggml/src/ggml-cpu/llamafile/sgemm.cpp",
    "stb_image.txt": "vendor/stb/stb_image.h",
    "miniaudio.txt": "vendor/miniaudio/miniaudio.h",
    "subprocess.h.txt": "vendor/sheredom/subprocess.h",
    "base64.hpp.txt": "common/base64.hpp",
    "sha1.txt": "vendor/hash/sha1/sha1.c",
}


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return [entry.filename for entry in archive.infolist() if not entry.is_dir()]


@pytest.fixture(scope="module")
def binaries(unpacked: Path) -> Path:
    return unpacked / "llcuda" / "binaries"


@pytest.fixture(scope="module")
def record(binaries: Path) -> dict[str, Any]:
    return read_record(binaries)


@pytest.fixture(scope="module")
def backends(binaries: Path) -> list[Path]:
    """The folders of the CUDA backends: none in a wheel for the CPU."""
    return list_backends(binaries)


@pytest.fixture(scope="module")
def web_ui(binaries: Path, record: dict[str, Any]) -> dict[str, bytes]:
    """The files of the page /chat; a release has them, and so has what is built where npm is sure to be."""
    if record["flags"]["web_ui"] != "ON" and record["profile"] != "all" and not os.environ.get("CI"):
        pytest.skip("this wheel was built without npm")
    with zipfile.ZipFile(binaries / ARCHIVE_NAME) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def info(unpacked: Path) -> Path:
    (found,) = unpacked.glob("llcuda-*.dist-info")
    return found


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.replace("http://", "").replace("https://", ""))


def test_the_wheel_is_for_any_python_3_on_this_platform(wheel: Path) -> None:
    assert re.fullmatch(r"llcuda-\d+\.\d+\.\d+-py3-none-(linux|manylinux_2_\d+)_x86_64\.whl", wheel.name)


def test_the_wheel_keeps_its_budget(wheel: Path, backends: list[Path]) -> None:
    assert wheel.stat().st_size <= (MAX_CUDA_WHEEL_BYTES if backends else MAX_WHEEL_BYTES)


def test_no_name_is_there_twice_and_none_is_a_link(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        entries = archive.infolist()
    assert len({entry.filename for entry in entries}) == len(entries)
    assert not [entry.filename for entry in entries if stat.S_ISLNK(entry.external_attr >> 16)]


def test_the_binaries_are_exactly_these(binaries: Path, record: dict[str, Any], backends: list[Path]) -> None:
    implementations = {f"lib{name}-impl.so" for name in EXECUTABLES if (binaries / f"lib{name}-impl.so").exists()}
    expected = EXECUTABLES | LIBRARIES | implementations | VARIANTS[record["profile"]] | {"BUILD.json"}
    expected |= {f"{folder.name}/{name}" for folder in backends for name in ("libggml-cuda.so", "BUILD.json")}
    expected |= {ARCHIVE_NAME} if record["flags"]["web_ui"] == "ON" else set()
    assert {path.relative_to(binaries).as_posix() for path in binaries.rglob("*") if path.is_file()} == expected


def test_the_python_files_are_exactly_the_source(names: list[str]) -> None:
    shipped = {name for name in names if not name.startswith("llcuda/binaries/") and ".dist-info/" not in name}
    source = [path for path in (ROOT / "src/llcuda").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    expected = {path.relative_to(ROOT / "src").as_posix() for path in source}
    assert shipped == {name for name in expected if not name.startswith("llcuda/binaries/")}
    assert "llcuda/py.typed" in shipped


def test_the_metadata_is_exactly_these_files(names: list[str]) -> None:
    kept = {name.partition(".dist-info/")[2] for name in names if ".dist-info/" in name}
    kept = {name for name in kept if not name.startswith("licenses/")}
    assert kept - {"sboms/auditwheel.cdx.json"} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "sboms/llama.cpp.cdx.json",
    }


def test_the_binaries_are_whole_hardened_and_find_each_other(binaries: Path) -> None:
    """Covers BUILD.json's hashes, execute bits, RPATH, what is needed, one file a library, PIE, RELRO, BIND_NOW, NX."""
    assert check_directory(binaries) == []


def test_every_binary_is_elf_and_the_tools_are_the_executable_ones(binaries: Path) -> None:
    others = {"BUILD.json", ARCHIVE_NAME}
    files = [path for path in binaries.rglob("*") if path.is_file() and path.name not in others]
    assert [path.name for path in files if not is_elf(path)] == []
    assert {path.name for path in files if read_elf(path).is_executable} == EXECUTABLES
    executable = {path.name for path in binaries.iterdir() if os.access(path, os.X_OK) and path.stat().st_mode & 0o100}
    assert executable >= EXECUTABLES
    assert not others & executable


def test_no_path_of_the_building_machine_is_inside(binaries: Path) -> None:
    paths = {str(ROOT).encode(), b"/tmp/", str(Path.home()).encode() + b"/"}
    found = {
        (path.name, text.decode(errors="replace"))
        for path in binaries.rglob("*")
        if path.is_file()
        for text in re.findall(rb"[\x20-\x7e]{4,}", path.read_bytes())
        if any(one in text for one in paths) and (b".c" in text or b".h" in text or b"build" in text)
    }
    assert found == set()


def test_the_web_ui_is_whole_with_the_licence_of_every_package_in_it(web_ui: dict[str, bytes]) -> None:
    named = re.findall(rb'(?:href|src)="\./([^"]+)"|import\("\./([^"]+)"\)', web_ui["index.html"])
    assert {(one or other).decode() for one, other in named} <= web_ui.keys()
    text = web_ui[LICENCES_NAME].decode()
    packages = json.loads(web_ui[PACKAGES_NAME])
    assert {"svelte", "dompurify", "katex", "tailwindcss", "workbox-core"} <= {package["name"] for package in packages}
    for package in packages:
        title = " ".join(filter(None, (package["name"], package["version"], f"({package['licence']})")))
        assert f"\n{title}\n" in text
    for part in re.findall(rb"workbox:([a-z-]+):", b"".join(web_ui.values())):
        assert f"\nworkbox-{part.decode()} " in text


def test_the_web_ui_tells_nothing_of_the_building_machine(web_ui: dict[str, bytes]) -> None:
    for name, data in web_ui.items():
        assert str(ROOT).encode() not in data, name
        assert not re.search(rb"/(?:home|root|tmp)/\w+/", data), name
    assert json.loads(web_ui["build.json"]) == json.loads(web_ui["_app/version.json"]) == {"version": read_lock().tag}


def test_build_json_states_what_was_built(record: dict[str, Any]) -> None:
    lock = read_lock()
    patches = [patch.name for patch in lock.patches]
    upstream = {"tag": lock.tag, "version": lock.data["version"], "commit": lock.tag, "patches": patches}
    assert record["llama_cpp"] == upstream
    assert record["profile"] in VARIANTS
    assert {f"lib{name}.so" for name in record["cpu_variants"]} == VARIANTS[record["profile"]]
    assert (record["profile"] == "native") == bool(record["cpu_features"])
    assert re.match(r"(GNU|Clang) \d+\.\d+", record["compiler"])
    assert (record["toolkit"], record["architectures"]) == (None, [])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", record["date"])


def test_each_backend_says_what_it_was_built_for(backends: list[Path]) -> None:
    """That its code is for these GPUs is checked with the rest of the binaries."""
    for folder in backends:
        record = read_record(folder)
        major = record["toolkit"].partition(".")[0]
        assert record["profile"] == folder.name == f"cuda{major}"
        assert record["architectures"]
        assert all(re.fullmatch(r"(sm|compute)_\d+[af]?", name) for name in record["architectures"])
        assert record["cuda"]["cublas"] == f"libcublas.so.{major}"
        assert (record["cuda"]["compression"], record["cuda"]["runtime"]) in {("size", "static"), ("none", "static")}
        assert re.fullmatch(r"\d{3}\.\d+\.\d+", record["cuda"]["driver_floor"])


def test_each_backend_finds_its_libraries_beside_itself_with_the_rest_and_in_the_wheels(backends: list[Path]) -> None:
    for folder in backends:
        elf = read_elf(folder / "libggml-cuda.so")
        assert elf.runpath == f"$ORIGIN:$ORIGIN/..:$ORIGIN/../../../{CUBLAS_FOLDER[folder.name]}"
        assert {"libggml-base.so", "libcuda.so.1"} <= set(elf.needed)
        assert not [name for name in elf.needed if "cublas" in name or "cudart" in name]


def test_the_wheel_depends_on_cublas_for_its_backends_alone(info: Path, backends: list[Path]) -> None:
    metadata = (info / "METADATA").read_text(encoding="utf-8")
    required = set(re.findall(r"^Requires-Dist: (nvidia-[^\n]*)$", metadata, re.MULTILINE))
    assert required == {CUBLAS[folder.name] for folder in backends}


def test_every_licence_of_the_vendored_source_is_shipped(info: Path) -> None:
    tree = TREE_PATH
    licences = [path for path in (tree / "vendor").rglob("LICENSE*") if path.is_file()]
    licences += [tree / "LICENSE", tree / "AUTHORS", *(tree / "licenses").iterdir()]
    expected = {path.relative_to(ROOT).as_posix() for path in licences}
    expected |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "vendor/licenses").iterdir()} | {"LICENSE"}
    shipped = {
        path.relative_to(info / "licenses").as_posix() for path in (info / "licenses").rglob("*") if path.is_file()
    }
    assert shipped == expected


@pytest.mark.parametrize(("notice", "source"), NOTICES.items())
def test_a_notice_that_was_taken_from_a_source_file_still_stands_there(notice: str, source: str) -> None:
    """Licences that upstream keeps inside of source files; a new version of those may bring new words."""
    ours = words((ROOT / "vendor/licenses" / notice).read_text(encoding="utf-8"))
    theirs = words((TREE_PATH / source).read_text(encoding="utf-8", errors="replace"))
    assert " ".join(ours) in " ".join(theirs)


def test_every_notice_is_compared_with_its_source() -> None:
    assert {path.name for path in (ROOT / "vendor/licenses").iterdir()} == set(NOTICES)


def test_the_bill_of_materials_names_llama_cpp_and_what_it_bundles(
    info: Path, binaries: Path, backends: list[Path]
) -> None:
    has_web_ui = (binaries / ARCHIVE_NAME).exists()
    document = json.loads((info / "sboms/llama.cpp.cdx.json").read_text(encoding="utf-8"))
    lock = read_lock()
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    parts = {part["name"]: part for part in document["components"]}
    assert parts["llama.cpp"]["version"] == lock.tag
    assert parts["llama.cpp"]["externalReferences"][0]["hashes"] == [{"alg": "SHA-256", "content": lock.sha256}]
    patches = [(patch["resolves"][0]["id"], patch["diff"]) for patch in parts["llama.cpp"]["pedigree"]["patches"]]
    assert [name for name, _ in patches] == [patch.name for patch in lock.patches]
    assert [diff["text"]["content"] for _, diff in patches] == [patch.diff for patch in lock.patches]
    names = {package["name"] for package in read_packages(binaries / ARCHIVE_NAME)} if has_web_ui else set()
    assert {part["name"] for part in document["components"] if "npm" in part["bom-ref"]} <= names <= set(parts)
    assert {"cpp-httplib", "nlohmann-json", "miniaudio", "stb_image", "subprocess.h", "xxhash"} <= set(parts)
    runtimes = {part["version"] for part in document["components"] if part["name"] == "cuda-runtime"}
    assert runtimes == {read_record(folder)["toolkit"] for folder in backends}
    assert all(part["licenses"] for part in parts.values())
    references = {part["bom-ref"] for part in document["components"]} | {"llcuda"}
    assert all({link["ref"], *link["dependsOn"]} <= references for link in document["dependencies"])


def test_the_commands_are_those_of_the_contract(info: Path) -> None:
    parser = configparser.ConfigParser()
    parser.read(info / "entry_points.txt")
    assert dict(parser["console_scripts"]) == {
        "llcuda": "llcuda.__main__:main",
        "llcuda-client": "llcuda.cli.client:main",
        "llcuda-server": "llcuda.cli.executables:server",
        "llcuda-cli": "llcuda.cli.executables:cli",
        "llcuda-bench": "llcuda.cli.executables:bench",
        "llcuda-quantize": "llcuda.cli.executables:quantize",
        "llcuda-embedding": "llcuda.cli.executables:embedding",
        "llcuda-perplexity": "llcuda.cli.executables:perplexity",
        "llcuda-imatrix": "llcuda.cli.executables:imatrix",
        "llcuda-gguf-split": "llcuda.cli.executables:gguf_split",
    }
