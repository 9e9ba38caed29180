"""Every command of docs/turn-the-gpu-on.md, in its order: on the stand-in GPU, from a hub and a server on loopback."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

import llcuda
from llcuda import cli
from llcuda import devices as package
from llcuda.engine import placement as placements
from llcuda.installer import HUB_SOURCE, install
from llcuda.native import read_build_info
from tests.inputs.bundles import LIBRARY, Draft, write_bundle
from tests.places import DOCS
from tests.standins.fake_t4 import T4, devices
from tests.standins.hub_server import serve

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

PAGE = (DOCS / "turn-the-gpu-on.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh no-run\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]


def test_every_command_of_the_page_runs(
    tmp_path: Path,
    binaries: Path,
    *,
    compiled: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tag = read_build_info(binaries).llama_cpp_tag
    library = compiled / "fake" / LIBRARY
    build = {"llama_cpp": {"tag": tag, "version": "0.6.0", "commit": tag}}
    bundle = write_bundle(tmp_path / "bundles", Draft(files={LIBRARY: library.read_bytes()}, record=build))
    for module in (install, placements, package):
        monkeypatch.setattr(module, "find_devices", lambda **_: devices(T4))
    monkeypatch.chdir(tmp_path)
    said = ""
    with serve() as hub:
        files = {path.name: path.read_bytes() for path in bundle.parent.iterdir()}
        hub.plain.update(files)
        folder = {f"v{llcuda.__version__}/{name}": data for name, data in files.items()}
        hub.datasets[HUB_SOURCE.removeprefix("hf://datasets/")] = folder
        for name, value in {**hub.environment(tmp_path), "GGML_FAKE_GPU": "4096", "COLUMNS": "80"}.items():
            monkeypatch.setenv(name, value)
        for command in COMMANDS:
            arguments = shlex.split(command.replace("https://files.example/llcuda", f"{hub.url}/plain"))
            assert arguments[0] == "llcuda"
            assert cli.main(arguments[1:]) == 0, f"{command}\n{capsys.readouterr()}"
            output = capsys.readouterr()
            said += output.out + output.err
    assert len(COMMANDS) >= 12
    for quoted in (
        "This installs the CUDA backend cuda12 for Tesla T4 (",
        "the demo model was on Tesla T4 and answered right",
    ):
        assert quoted in PAGE
        assert quoted in said
    assert "try:       Install one: llcuda gpu install" in said
    assert said.rstrip().endswith("In use: what the package carries.")
