"""Kill the installer many times at random moments: ``python -m benchmarks.install_kill [--count 300]``.

After each kill everything that is in use must be whole, digest by digest, and an engine must load the demo model with
it: on the stand-in GPU where a backend is installed, else on the CPU. The line says what was in use how often, and how
often the kill left a folder that was not finished, which nothing may use and the next install removes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import pytest

from llcuda.native import binaries_dir, read_build_info
from tests import install_kill
from tests.bundles import LIBRARY
from tests.process.test_offload_real import compile_backends


def main() -> int:
    """Run it and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as monkeypatch:
        folder = Path(name)
        library = compile_backends(folder / "backends", binaries_dir()) / "fake" / LIBRARY
        tag = read_build_info(binaries_dir()).llama_cpp_tag
        bundles = install_kill.write_bundles(folder, library.read_bytes(), tag=tag)
        install_kill.put_gpu(monkeypatch, folder / "home")
        began = time.monotonic()
        outcome = install_kill.run(chosen.count, bundles, seed=chosen.seed)
    row = {"kills": chosen.count, "in_use": outcome.left, "unfinished": outcome.abandoned}
    print(json.dumps({**row, "seconds": round(time.monotonic() - began)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
