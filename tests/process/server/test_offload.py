"""The real llama-server says where it puts a model: on no GPU, and on the stand-in of tests/standins/fake_gpu.c.

``python -m tests.process.server.test_offload FOLDER_OF_BINARIES`` records each case into tests/data/logs/offload, where
tests/unit/server/test_offload.py has what must be read from it. Here the same is asked of a llama-server that runs now.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from llcuda.server.offload import Offload, read_offload
from tests.made_models.moe_model import write_moe_model, write_projector, write_recurrent_model
from tests.made_models.tiny_model import write_tiny_model
from tests.places import ROOT

LOGS = ROOT / "tests" / "data" / "logs" / "offload"
MODELS = ROOT / "src" / "llcuda" / "models_data"
READY = re.compile(rb"listening on http://|exiting due to")
TIMEOUT = 120

NO_FIT = "--fit-target 1"  # leave 1 MiB of the stand-in's memory, not 1024


@dataclass(frozen=True)
class Case:
    """One way to start llama-server."""

    name: str
    model: str
    options: str = ""
    gpus: str | None = None
    """The MiB of each stand-in GPU; None for no CUDA backend."""
    backend: str = "fake"
    """Another library to take for the backend: absent, no-driver, undefined, no-entry, null, old."""
    environment: dict[str, str] = field(default_factory=dict)
    verbosity: int = 4


CASES = (
    Case("cpu", "demo.gguf"),
    Case("cpu-all-layers-asked-for", "demo.gguf", "--gpu-layers 99"),
    Case("cpu-draft", "demo.gguf", "--spec-type draft-simple --model-draft demo-draft.gguf --gpu-layers 99"),
    Case("cpu-embeddings", "demo.gguf", "--embeddings --pooling mean"),
    Case("cpu-quantised-kv", "demo.gguf", "--cache-type-k q8_0 --cache-type-v q8_0"),
    Case("cpu-unmapped", "demo.gguf", "--load-mode none"),
    Case("cpu-experts", "moe.gguf"),
    Case("cpu-recurrent", "recurrent.gguf"),
    Case("cpu-projector", "tiny.gguf", "--mmproj projector.gguf"),
    Case("cpu-too-quiet", "demo.gguf", verbosity=3),
    Case("cpu-verbosity-5", "tiny.gguf", verbosity=5),
    Case("backend-absent", "tiny.gguf", backend="absent", gpus=""),
    Case("backend-without-driver", "tiny.gguf", backend="no-driver", gpus=""),
    Case("backend-undefined-symbol", "tiny.gguf", backend="undefined", gpus=""),
    Case("backend-without-entry", "tiny.gguf", backend="no-entry", gpus=""),
    Case("backend-null", "tiny.gguf", backend="null", gpus=""),
    Case("backend-old", "tiny.gguf", backend="old", gpus=""),
    Case("backend-without-gpu", "tiny.gguf", gpus=""),
    Case("full", "demo.gguf", NO_FIT, "64"),
    Case("full-verbosity-5", "tiny.gguf", NO_FIT, "64", verbosity=5),
    Case("full-recurrent", "recurrent.gguf", NO_FIT, "64"),
    Case("full-two-gpus", "demo.gguf", NO_FIT, "64,64"),
    Case("full-three-gpus-split", "demo.gguf", f"{NO_FIT} --tensor-split 1,1,2", "64,64,64"),
    Case("full-tensor-parallel", "demo.gguf", "--fit off --split-mode tensor", "64,64"),
    Case("full-one-of-two", "demo.gguf", f"{NO_FIT} --split-mode none --main-gpu 1", "64,64"),
    Case("full-draft", "demo.gguf", f"{NO_FIT} --spec-type draft-simple --model-draft demo-draft.gguf", "64"),
    Case(
        "full-draft-on-cpu",
        "demo.gguf",
        f"{NO_FIT} --spec-type draft-simple --model-draft demo-draft.gguf --spec-draft-ngl 0",
        "64",
    ),
    Case("full-projector", "tiny.gguf", f"{NO_FIT} --mmproj projector.gguf", "64"),
    Case("full-projector-on-cpu", "tiny.gguf", f"{NO_FIT} --mmproj projector.gguf --no-mmproj-offload", "64"),
    Case("full-context-reduced", "demo.gguf", f"{NO_FIT} --fit-ctx 256", "8"),
    Case("full-no-flash-attention", "demo.gguf", NO_FIT, "64", environment={"GGML_FAKE_GPU_NO_FLASH": "1"}),
    Case("partial-two-layers", "demo.gguf", f"{NO_FIT} --gpu-layers 2", "64"),
    Case("partial-layers-reduced", "demo.gguf", "--fit-target 3", "8"),
    Case("partial-kv-on-cpu", "demo.gguf", f"{NO_FIT} --no-kv-offload", "64"),
    Case("partial-all-experts-on-cpu", "moe-large.gguf", f"{NO_FIT} --cpu-moe", "16"),
    Case("partial-one-layers-experts-on-cpu", "moe-large.gguf", f"{NO_FIT} --n-cpu-moe 1", "16"),
    Case("partial-experts-reduced", "moe-large.gguf", NO_FIT, "5"),
    Case("partial-experts-reduced-two-gpus", "moe-large.gguf", NO_FIT, "3,3"),
    Case("cpu-nothing-fits", "demo.gguf", "", "64"),
    Case("cpu-no-layers-asked-for", "demo.gguf", f"{NO_FIT} --gpu-layers 0", "64"),
    Case("cpu-no-device-asked-for", "demo.gguf", f"{NO_FIT} --device none", "64"),
    Case("out-of-memory-weights", "demo.gguf", "--fit off", "2"),
    Case("out-of-memory-compute", "demo.gguf", "--fit off", "6"),
)


@dataclass(frozen=True)
class Place:
    """What the cases run with."""

    binaries: Path
    models: Path
    backends: Path


_BROKEN_BACKENDS = {
    "no-driver": "int cuInit(unsigned); int ggml_backend_init(void) { return cuInit(0); }",
    "undefined": "int ggml_of_tomorrow(void); int ggml_backend_init(void) { return ggml_of_tomorrow(); }",
    "no-entry": "int nothing;",
    "null": "void * ggml_backend_init(void) { return 0; }",
    "old": "static int reg[64] = { 1 }; void * ggml_backend_init(void) { return reg; }",
}


def write_models(folder: Path) -> Path:
    for name in ("demo.gguf", "demo-draft.gguf"):
        shutil.copy(MODELS / name, folder / name)
    write_tiny_model(folder / "tiny.gguf")
    write_moe_model(folder / "moe.gguf")
    write_moe_model(folder / "moe-large.gguf", layers=4, experts=64)
    write_recurrent_model(folder / "recurrent.gguf")
    write_projector(folder / "projector.gguf")
    return folder


def compile_library(source: str, target: Path, *options: str) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    command = ["gcc", "-std=c11", "-shared", "-fPIC", "-x", "c", "-", "-x", "none", "-o", str(target), *options]
    subprocess.run(command, input=source, text=True, check=True, timeout=60)
    return target


def compile_backends(folder: Path, binaries: Path) -> Path:
    """Compile the stand-in, and the libraries that llama-server must refuse."""
    driver = folder / "libcuda.so.1"
    compile_library("int cuInit(unsigned x) { return x; }", driver, "-Wl,-soname,libcuda.so.1")
    options = {"undefined": ["-Wl,-z,now"], "no-driver": [str(driver)]}
    for name, source in _BROKEN_BACKENDS.items():
        compile_library(source, folder / name / "libggml-cuda.so", *options.get(name, ()))
    driver.unlink()
    headers = [f"-I{ROOT / 'vendor' / 'llama.cpp' / 'ggml' / part}" for part in ("include", "src")]
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-function"]
    libraries = [f"-L{binaries}", "-lggml", "-lggml-base"]
    source = (ROOT / "tests" / "standins" / "fake_gpu.c").read_text()
    compile_library(source, folder / "fake" / "libggml-cuda.so", "-O1", *warnings, *headers, *libraries)
    return folder


def prepare(folder: Path, binaries: Path) -> Place:
    (folder / "models").mkdir()
    models, backends = write_models(folder / "models"), compile_backends(folder / "backends", binaries)
    return Place(binaries, models, backends)


def run_case(case: Case, place: Place) -> list[str]:
    """Start llama-server, wait until it is ready or gives up, stop it, and return its log."""
    command = [
        *(str(place.binaries / "llama-server"), "--model", case.model, "--offline"),
        *("--host", "127.0.0.1", "--port", "0"),
        *("--log-colors", "off", "--no-ui", "--no-warmup", "--threads", "1"),
        *("--log-verbosity", str(case.verbosity), *case.options.split()),
    ]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(place.binaries), **case.environment}
    environment.pop("GGML_BACKEND_PATH", None)
    if case.gpus is not None:
        library = os.path.relpath(place.backends / case.backend / "libggml-cuda.so", place.models)
        environment |= {"GGML_BACKEND_PATH": library, "GGML_FAKE_GPU": case.gpus}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=place.models, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + TIMEOUT
            while process.poll() is None and not READY.search(_read(log.fileno())) and time.monotonic() < deadline:
                time.sleep(0.02)
        finally:
            process.kill()
            process.wait(TIMEOUT)
        return _read(log.fileno()).decode("utf-8", "replace").splitlines()


def _read(fd: int) -> bytes:
    return os.pread(fd, 1 << 22, 0)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, binaries: Path, compiled: Path) -> Place:
    return Place(binaries, write_models(tmp_path_factory.mktemp("offload")), compiled)


def summarise(offload: Offload) -> tuple[object, ...]:
    """Return all but sizes, which differ between processors."""
    limits = [re.sub(r"\d+\.\d", "N", limit) for limit in offload.limits]
    places = {(buffer.model, buffer.kind, buffer.device) for buffer in offload.buffers if buffer.on_gpu}
    words = (offload.verdict, offload.layers, offload.layers_on_gpu, offload.flash_attention, offload.backend_error)
    return (*words, limits, offload.gpu_names, places)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_runs_now_says_what_was_recorded(case: Case, place: Place) -> None:
    recorded = (LOGS / f"recorded-{case.name}.log").read_text().splitlines()
    assert summarise(read_offload(run_case(case, place))) == summarise(read_offload(recorded))


def record(binaries: Path) -> None:
    """Write the log of every case, without the paths of this machine."""
    LOGS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        place = prepare(Path(folder), binaries)
        for case in CASES:
            text = "\n".join(run_case(case, place)).replace(str(binaries), "/opt/llcuda/binaries")
            (LOGS / f"recorded-{case.name}.log").write_text(text.replace("../backends", "/opt/llcuda") + "\n")


if __name__ == "__main__":
    record(Path(sys.argv[1]).absolute())
