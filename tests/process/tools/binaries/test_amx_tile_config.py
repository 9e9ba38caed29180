"""The compiler keeps the whole tile configuration of ggml's AMX code.

Where the processor has AMX, test_synthetic_model.py runs that code.
"""

from __future__ import annotations

import json
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.places import ROOT

SCRIPTS = Path(sysconfig.get_path("scripts"))
HEADER = ROOT / "native" / "amx" / "tile_config.h"

CONFIGURE = """
#include <immintrin.h>
#include <stdint.h>
struct config {
    uint8_t palette = 0, start = 0, zero[14] = {0};
    uint16_t bytes[16] = {0};
    uint8_t rows[16] = {0};
};
void configure() {
    alignas(64) config tiles = {};
    tiles.palette = 1;
    tiles.bytes[7] = 4660;
    tiles.rows[7] = 42;
    _tile_loadconfig(&tiles);
}
"""


def compile_to_assembly(*options: str) -> str:
    command = ["c++", "-x", "c++", "-O3", *options, "-S", "-o", "-", "-"]
    return subprocess.run(command, input=CONFIGURE, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("level", ["-O1", "-O2", "-O3"])
def test_every_byte_of_the_tile_configuration_is_stored_before_it_is_loaded(level: str) -> None:
    assembly = compile_to_assembly("-march=sapphirerapids", "-include", str(HEADER), level)
    before, loaded, _ = assembly.partition("ldtilecfg")
    assert loaded
    assert re.search(r"\$4660\b", before)
    assert re.search(r"\$42\b", before)


def test_without_amx_the_header_changes_nothing() -> None:
    source = "int nothing;"
    command = ["c++", "-x", "c++", "-march=x86-64", "-include", str(HEADER), "-E", "-P", "-"]
    output = subprocess.run(command, input=source, capture_output=True, text=True, check=True).stdout
    assert output.split() == source.split()


def test_every_variant_of_the_cpu_backend_is_compiled_with_it(tmp_path: Path) -> None:
    command = [str(SCRIPTS / "cmake"), "-S", str(ROOT), "-B", str(tmp_path), "-G", "Ninja", "-DLLCUDA_CPU=all"]
    command += [f"-DCMAKE_MAKE_PROGRAM={SCRIPTS / 'ninja'}", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"]
    command += ["-DLLCUDA_CUDA=off", "-DLLCUDA_WEB_UI=off"]
    subprocess.run(command, capture_output=True, text=True, check=True, timeout=240)
    compiled = json.loads((tmp_path / "compile_commands.json").read_text(encoding="utf-8"))
    with_amx = [unit["command"] for unit in compiled if unit["file"].endswith("ggml-cpu/amx/mmq.cpp")]
    assert len(with_amx) > 10
    assert all(f"-include {HEADER}" in command for command in with_amx)
