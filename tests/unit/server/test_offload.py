"""Logs of llama-server, each with what must be read from it.

``recorded-*.log`` are the real llama-server's words: run on a machine without a GPU, with tests/standins/fake_gpu.c for
the GPUs if there are some (tests/process/server/test_offload.py has the command lines, and asks it again).
``written-*.log`` were written after llama.cpp's format strings: machines and models are invented. Another version's log
says nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from llcuda.server.offload import Buffer, Offload, read_offload, sum_bytes

LOGS = Path(__file__).parents[2] / "data" / "logs" / "offload"
MIB = 1 << 20

NO_GPU = "llama-server found no GPU."
NO_PROOF = 'Its line "offloaded {} layers to GPU" is no proof of one.'


class Row(NamedTuple):
    """What a log says."""

    log: str
    verdict: str
    layers: str
    """On GPUs, of how many: "20/33"; "?" where the log does not say."""
    gpus: str
    """Those that have any of its weights: "CUDA0 CUDA1"."""
    weights_mib: tuple[float, float]
    """Those of the main model on GPUs, and off them."""
    limits: tuple[str, ...] = ()
    """All sentences, each by some of its words."""


TABLE = (
    # On no GPU
    Row("recorded-cpu", "cpu", "0/4", "", (0, 2.63), (NO_GPU,)),
    Row("recorded-cpu-all-layers-asked-for", "cpu", "0/4", "", (0, 2.63), (NO_GPU,)),
    Row("recorded-cpu-draft", "cpu", "0/4", "", (0, 2.63), (NO_GPU,)),
    Row("recorded-cpu-embeddings", "cpu", "0/4", "", (0, 2.63), (NO_GPU,)),
    Row("recorded-cpu-quantised-kv", "cpu", "0/4", "", (0, 2.63), (NO_GPU,)),
    Row("recorded-cpu-unmapped", "cpu", "0/4", "", (0, 2.63), (NO_GPU,)),
    Row("recorded-cpu-experts", "cpu", "0/2", "", (0, 0.17), (NO_GPU,)),
    Row("recorded-cpu-recurrent", "cpu", "0/2", "", (0, 0.09), (NO_GPU,)),
    Row("recorded-cpu-projector", "cpu", "0/2", "", (0, 0.10), (NO_GPU,)),
    Row("recorded-cpu-verbosity-5", "cpu", "0/2", "", (0, 0.10), (NO_GPU,)),
    Row("written-cpu-that-claims-all-layers", "cpu", "0/23", "", (0, 636.18), (NO_PROOF.format("23/23"),)),
    Row("written-cpu-model-that-lies", "cpu", "0/23", "", (0, 636.18), ("No GPU is used: ",)),
    # A GPU that was not used
    Row("recorded-cpu-nothing-fits", "cpu", "0/4", "", (0, 2.63), ("on CUDA0 (Fake GPU 64 MiB), to fit",)),
    Row("recorded-cpu-no-layers-asked-for", "cpu", "0/4", "", (0, 2.63), ("because gpu_layers is 0",)),
    Row("recorded-cpu-no-device-asked-for", "cpu", "0/4", "", (0, 2.63), ("was told to use none",)),
    # A backend that was not loaded, or found no GPU
    Row("recorded-backend-absent", "cpu", "0/2", "", (0, 0.10), ("libggml-cuda.so could not be loaded",)),
    Row("recorded-backend-without-driver", "cpu", "0/2", "", (0, 0.10), ("libcuda.so.1: cannot open shared object",)),
    Row("recorded-backend-undefined-symbol", "cpu", "0/2", "", (0, 0.10), ("undefined symbol: ggml_of_tomorrow",)),
    Row("recorded-backend-without-entry", "cpu", "0/2", "", (0, 0.10), ("has no ggml_backend_init",)),
    Row("recorded-backend-null", "cpu", "0/2", "", (0, 0.10), ("ggml_backend_init returned NULL",)),
    Row("recorded-backend-old", "cpu", "0/2", "", (0, 0.10), ("incompatible API version (backend: 1, current: 3)",)),
    Row("recorded-backend-without-gpu", "cpu", "0/2", "", (0, 0.10), (NO_GPU,)),
    Row("written-cuda-hidden", "cpu", "0/23", "", (0, 636.18), ("no CUDA-capable device is detected",)),
    Row("written-cuda-driver-insufficient", "cpu", "0/23", "", (0, 636.18), ("driver version is insufficient",)),
    Row("written-cuda-803", "cpu", "0/23", "", (0, 636.18), ("unsupported display driver / cuda driver combination",)),
    Row("written-cuda-804", "cpu", "0/23", "", (0, 636.18), ("forward compatibility was attempted",)),
    Row("written-cuda-999", "cpu", "0/23", "", (0, 636.18), ("CUDA could not be initialised: unknown error",)),
    Row("written-cuda-busy", "cpu", "0/23", "", (0, 636.18), ("busy or unavailable",)),
    # In full
    Row("recorded-full", "full", "4/4", "CUDA0", (2.63, 0.38)),
    Row("recorded-full-verbosity-5", "full", "2/2", "CUDA0", (0.07, 0.03)),
    Row("recorded-full-recurrent", "full", "2/2", "CUDA0", (0.06, 0.03)),
    Row("recorded-full-two-gpus", "full", "4/4", "CUDA0 CUDA1", (2.63, 0.38)),
    Row("recorded-full-three-gpus-split", "full", "4/4", "CUDA0 CUDA1 CUDA2", (2.63, 0.38)),
    Row("recorded-full-tensor-parallel", "full", "4/4", "Meta()", (1.51, 0.38)),
    Row("recorded-full-one-of-two", "full", "4/4", "CUDA1", (2.63, 0.38)),
    Row("recorded-full-draft", "full", "4/4", "CUDA0", (2.63, 0.38)),
    Row("recorded-full-projector", "full", "2/2", "CUDA0", (0.07, 0.03)),
    Row("written-full-h200", "full", "33/33", "CUDA0", (3820.94, 70.31)),
    Row("written-full-draft-without-a-file", "full", "33/33", "CUDA0", (3820.94, 70.31)),
    Row("written-full-embedding-of-every-layer", "full", "36/36", "CUDA0", (4193.91, 2924.03)),
    Row("written-full-mapped", "full", "33/33", "CUDA0", (4403.49, 281.81)),
    # In full, with something to say
    Row("recorded-full-draft-on-cpu", "full", "4/4", "CUDA0", (2.63, 0.38), ("The draft model is on the CPU.",)),
    Row("recorded-full-projector-on-cpu", "full", "2/2", "CUDA0", (0.07, 0.03), ("The projector, ",)),
    Row("recorded-full-context-reduced", "full", "4/4", "CUDA0", (2.63, 0.38), ("from 1024 to 768 tokens to fit",)),
    Row("recorded-full-no-flash-attention", "full", "4/4", "CUDA0", (2.63, 0.38), ("Flash attention is off: CUDA0",)),
    Row("written-full-unified-memory", "full", "33/33", "CUDA0", (3820.94, 70.31), ("7.8 GiB and has 5.8 GiB",)),
    Row(
        "written-full-pipeline-dropped", "full", "81/81", "CUDA0 CUDA1", (39979.48, 563.62),
        ("There was no memory for pipeline parallelism",),
    ),
    # In part
    Row("recorded-partial-two-layers", "partial", "2/4", "CUDA0", (1.13, 1.88), ("2 of 4 layers are on the GPU.",)),
    Row("recorded-partial-layers-reduced", "partial", "2/4", "CUDA0", (1.13, 1.88), ("more do not fit its memory",)),
    Row("recorded-partial-kv-on-cpu", "partial", "4/4", "CUDA0", (2.63, 0.38), ("The KV cache is in the ",)),
    Row("recorded-partial-all-experts-on-cpu", "partial", "5/5", "CUDA0", (0.13, 6.03), ("are on the CPU: 6.0 MiB",)),
    Row("recorded-partial-one-layers-experts-on-cpu", "partial", "5/5", "CUDA0", (4.63, 1.53), ("1.5 MiB of the ",)),
    Row("recorded-partial-experts-reduced", "partial", "5/5", "CUDA0", (2.63, 3.53), ("the GPU's memory: 3.5 MiB",)),
    Row(
        "recorded-partial-experts-reduced-two-gpus", "partial", "5/5", "CUDA0 CUDA1", (1.63, 4.53),
        ("All 5 layers count as offloaded, but experts are on the CPU, to fit the GPU's memory: 4.5 MiB of the ",),
    ),
    Row("written-partial-operations-on-cpu", "partial", "33/33", "CUDA0", (3820.94, 70.31), ("Some operations",)),
    Row("written-partial-after-sleep", "partial", "20/33", "CUDA0", (2204.31, 1686.94), ("20 of 33 layers",)),
    Row(
        "written-partial-draft-partial", "partial", "12/33", "CUDA0", (1602.31, 4685.3),
        ("12 of 33 layers", "Of the draft model, 9 of 17 layers are on the GPU."),
    ),
    Row("written-partial-experts-mapped", "partial", "49/49", "CUDA0", (1003.62, 17447.91), ("16.3 GiB of",)),
    Row("written-full-interleaved", "full", "33/33", "CUDA0", (3820.94, 70.31)),
    # Nothing that can be relied on
    Row("written-2023-full", "unknown", "?/?", "", (0, 0)),
    Row("written-2024-full", "unknown", "?/?", "", (0, 0)),
    Row("recorded-cpu-too-quiet", "unknown", "?/?", "", (0, 0)),
    Row("recorded-out-of-memory-weights", "unknown", "?/4", "", (0, 0)),
    Row("recorded-out-of-memory-compute", "unknown", "?/4", "CUDA0", (2.63, 0.38)),
    Row("written-truncated-at-the-weights", "unknown", "?/33", "CUDA0", (3820.94, 0)),
    Row("written-truncated-head", "unknown", "?/?", "", (0, 0)),
)  # fmt: skip


def read(name: str) -> Offload:
    return read_offload((LOGS / f"{name}.log").read_text().splitlines())


def test_every_log_is_in_the_table() -> None:
    names = [row.log for row in TABLE]
    assert sorted(names) == sorted(path.stem for path in LOGS.glob("*.log"))
    assert len(names) == len(set(names)) >= 25


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.log)
def test_a_log_says_where_the_model_is(row: Row) -> None:
    offload = read(row.log)
    assert offload.verdict == row.verdict
    assert f"{_count(offload.layers_on_gpu)}/{_count(offload.layers)}" == row.layers
    assert " ".join(sorted({buffer.device for buffer in main_weights(offload) if buffer.on_gpu})) == row.gpus
    weights = [sum(b.bytes for b in main_weights(offload) if b.on_gpu is on_gpu) / MIB for on_gpu in (True, False)]
    assert weights == pytest.approx(row.weights_mib, abs=0.011)
    assert len(offload.limits) == len(row.limits), offload.limits
    assert all(words in said for words, said in zip(row.limits, offload.limits, strict=True)), offload.limits


def _count(number: int | None) -> str:
    return "?" if number is None else str(number)


def main_weights(offload: Offload) -> list[Buffer]:
    return [buffer for buffer in offload.buffers if (buffer.model, buffer.kind) == ("main", "weights")]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.log)
def test_a_limit_is_a_sentence(row: Row) -> None:
    for limit in read(row.log).limits:
        assert limit[0].isupper() or limit.startswith(("llama-server ", "CUDA", "1", "2", "6")), limit
        assert limit.endswith("."), limit
        assert "  " not in limit


def test_bytes_are_told_by_device_kind_and_model() -> None:
    buffers = read("recorded-full-draft").buffers
    on_gpu = [(buffer.model, buffer.kind, buffer.bytes) for buffer in buffers if buffer.device == "CUDA0"]
    assert ("main", "weights", round(2.63 * MIB)) in on_gpu
    draft = sorted(size for model, _, size in on_gpu if model == "draft")
    assert draft == [round(mib * MIB) for mib in (0.25, 0.57, 3.51)]
    assert sum_bytes(buffers, "weights", on_gpu=True) == round(2.63 * MIB) + round(0.57 * MIB)
    assert sum_bytes(buffers, "kv", on_gpu=True) == round(1.5 * MIB) + round(0.25 * MIB)
    assert sum_bytes(buffers, "kv", on_gpu=False) == sum_bytes(buffers, "output", on_gpu=True) == 0
    assert sum_bytes(buffers, "output", on_gpu=False) > 0


def test_every_kind_and_model_is_found() -> None:
    logs = [read(f"recorded-full-{name}") for name in ("draft", "projector", "recurrent")]
    buffers = {buffer for log in logs for buffer in log.buffers}
    assert {buffer.kind for buffer in buffers} == {"weights", "kv", "recurrent", "compute", "output"}
    assert {buffer.model for buffer in buffers} == {"main", "draft", "projector"}


def test_a_second_reservation_takes_the_place_of_the_first() -> None:
    lines = (LOGS / "written-full-h200.log").read_text().splitlines()
    compute = next(line for line in lines if "CUDA0 compute buffer" in line)
    lines.insert(lines.index(compute) + 1, compute.replace("100.51", "120.50"))
    assert sum_bytes(read_offload(lines).buffers, "compute", on_gpu=True) == round(120.5 * MIB)


@pytest.mark.parametrize(
    ("device", "on_gpu"),
    [
        ("CUDA0", True), ("CUDA11", True), ("Meta()", True), ("Meta(CUDA0,CUDA1)", True),
        ("CUDA_Host", False), ("CUDA0_Host", False), ("CPU", False), ("CPU_Mapped", False), ("CPU_REPACK", False),
        ("CPU_AMX", False), ("BLAS", False), ("RPC[10.0.0.1:50052]", False), ("", False),
    ],
)  # fmt: skip
def test_only_a_gpus_own_memory_is_on_the_gpu(device: str, on_gpu: bool) -> None:  # noqa: FBT001
    assert Buffer(device, "weights", 1).on_gpu is on_gpu


@pytest.mark.parametrize("name", ["NVIDIA H200", "NVIDIA H100 (MIG 1g.10gb)"])
def test_a_gpu_has_the_name_that_llama_server_gives_it(name: str) -> None:
    seen = f"0.00.512.730 I cmn  common_param:   - CUDA0   : {name} (9856 MiB, 9728 MiB free)"
    used = f"0.00.804.117 I llama_prepare_model_devices: using device CUDA0 ({name}) (0000:18:00.0) - 9728 MiB free"
    assert read_offload([seen]).gpu_names == read_offload([used]).gpu_names == {"CUDA0": name}


@pytest.mark.parametrize(
    ("name", "enabled"),
    [
        ("recorded-full", True), ("recorded-full-no-flash-attention", False), ("written-full-mapped", False),
        ("written-partial-experts-mapped", True), ("recorded-cpu-too-quiet", None), ("recorded-full-projector", True),
    ],
)  # fmt: skip
def test_flash_attention_is_on_or_off(name: str, enabled: bool | None) -> None:  # noqa: FBT001
    assert read(name).flash_attention is enabled


def test_no_path_of_a_backend_is_told() -> None:
    for name in ("absent", "without-driver", "undefined-symbol", "without-entry", "null", "old"):
        error = read(f"recorded-backend-{name}").backend_error
        assert error.startswith("libggml-cuda.so ")
        assert "/opt" not in error


def test_a_cpu_backend_that_does_not_load_is_no_gpu_lost() -> None:
    line = "0.00.008.868 E load_backend: failed to load /x/libggml-cpu-alderlake.so: undefined symbol: f"
    assert not read_offload([line]).backend_error
    assert read_offload([line.replace("cpu-alderlake", "cuda")]).backend_error


def test_a_backends_line_that_lost_its_prefix_is_one_until_a_model_is_read() -> None:
    line = "load_backend: failed to load /x/libggml-cuda.so: libcuda.so.1: cannot open shared object file"
    warning = "0.00.012.980 E warning: consult docs/build.md for compilation instructions"
    assert "libcuda.so.1" in read_offload([warning, line]).backend_error
    loading = "0.00.022.216 I llama_model_loader: loaded meta data with 33 key-value pairs and 29 tensors from x"
    assert not read_offload([loading, line]).backend_error  # a file may say what it likes


def test_a_rehearsal_is_not_the_load() -> None:
    text = (LOGS / "recorded-full-verbosity-5.log").read_text()
    assert text.count("model buffer size") == 4
    assert len(main_weights(read("recorded-full-verbosity-5"))) == 2


def test_nothing_says_nothing() -> None:
    nothing = read_offload([])
    assert nothing.verdict == "unknown"
    assert (nothing.buffers, nothing.gpu_names, nothing.limits, nothing.backend_error) == ((), {}, (), "")


def test_every_log_cut_anywhere_is_read_and_never_called_full_too_early() -> None:
    lines = (LOGS / "recorded-partial-one-layers-experts-on-cpu.log").read_text().splitlines()
    assert {read_offload(lines[:end]).verdict for end in range(len(lines))} == {"unknown", "partial"}


@pytest.mark.parametrize("name", ["kv-on-cpu", "all-experts-on-cpu", "one-layers-experts-on-cpu", "experts-reduced"])
@pytest.mark.parametrize("hidden", ["graph: nodes", "print_info", "KV buffer size"])
def test_one_proof_is_enough_that_something_is_not_on_the_gpu(name: str, hidden: str) -> None:
    lines = (LOGS / f"recorded-partial-{name}.log").read_text().splitlines()
    assert read_offload(line for line in lines if hidden not in line).verdict == "partial"


@pytest.mark.parametrize("hidden", ["graph: nodes", "n_vocab", "file size", "- type"])
def test_what_is_on_the_gpu_in_full_needs_no_single_line(hidden: str) -> None:
    lines = (LOGS / "written-full-h200.log").read_text().splitlines()
    assert read_offload(line for line in lines if hidden not in line).verdict == "full"
