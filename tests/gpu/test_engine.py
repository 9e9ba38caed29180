"""The engine on a real GPU, as a user meets it: what answers, where it runs, and that all of it is given back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llcuda.devices import find_devices
from llcuda.errors import DeviceError
from tests.gpu.memory import WAYS, end_and_watch

if TYPE_CHECKING:
    import llcuda
    from llcuda.devices import Gpu
    from llcuda.engine import DeviceUse
    from tests.gpu.nvml import Nvml

pytestmark = pytest.mark.gpu

LEAST_SAME = 18
"""Of 20 greedy answers: another order of additions may turn the choice between two tokens that are as good."""
PROMPTS = [
    *(f"What is {first}+{second}?" for first, second in ((2, 2), (17, 25), (0, 9), (48, 51), (99, 99), (63, 8))),
    *(f"What is the capital of {country}?" for country in ("France", "Japan", "Peru", "Kenya", "Canada", "Fiji")),
    *(f"{first} plus {second}" for first, second in ((7, 5), (31, 13), (80, 19))),
    *("Who are you?", "What is llcuda?", "Count to fifty.", "Hello!", "What is the meaning of life?"),
]


def server_pid(engine: llcuda.InferenceEngine) -> int:
    pid = engine._server.server_pid
    assert pid is not None
    return pid


def open_devices(pid: int) -> set[str]:
    """Return the NVIDIA device files and driver libraries that a process has open."""
    files = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}  # noqa: PTH115 - sockets are no paths
    maps = {line.split()[-1] for line in Path(f"/proc/{pid}/maps").read_text().splitlines()}
    return {name for name in files | maps if name.startswith("/dev/nvidia") or "libcuda.so" in name}


def on_gpu(engine: llcuda.InferenceEngine) -> DeviceUse:
    assert engine.device_report is not None
    (use,) = [use for use in engine.device_report.devices if use.device == "CUDA0"]
    return use


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:0"])
def test_the_demo_model_answers_on_the_gpu_and_the_report_and_the_driver_say_so(
    engine: llcuda.InferenceEngine, gpu: Gpu, nvml: Nvml, *, device: str
) -> None:
    before, used = nvml.processes(), nvml.used_mib()
    engine.load_model("demo", device=device, require_gpu=True)
    assert "4" in engine.infer("What is 2+2?", temperature=0).text
    report = engine.device_report
    assert report is not None
    assert (report.asked, report.device, report.offload) == (device, "cuda", "full"), str(report)
    assert report.layers == report.layers_on_gpu
    assert on_gpu(engine).uuid == gpu.uuid
    assert on_gpu(engine).weights_bytes > 2_000_000
    assert on_gpu(engine).kv_bytes > 0
    assert on_gpu(engine).compute_bytes > 0
    assert open_devices(server_pid(engine))
    new = nvml.processes() - before
    # In a container the driver counts processes in another namespace; then their number has to do.
    assert server_pid(engine) in new or (len(new) == 1 and not Path(f"/proc/{new.pop()}").exists())
    assert nvml.used_mib() - used > on_gpu(engine).total_bytes / 2**20


def test_the_cpu_is_used_without_touching_the_gpu(engine: llcuda.InferenceEngine, nvml: Nvml) -> None:
    before = nvml.processes()
    engine.load_model("demo", device="cpu")
    assert "4" in engine.infer("What is 2+2?", temperature=0).text
    report = engine.device_report
    assert report is not None
    assert (report.device, report.backend, report.offload) == ("cpu", None, "cpu")
    assert not open_devices(server_pid(engine))
    assert nvml.processes() <= before


def test_one_layer_on_the_gpu_is_reported_as_a_part(engine: llcuda.InferenceEngine) -> None:
    engine.load_model("demo", device="cuda", gpu_layers=1)
    assert "4" in engine.infer("What is 2+2?", temperature=0).text
    report = engine.device_report
    assert report is not None
    assert (report.device, report.offload, report.layers_on_gpu) == ("cuda", "partial", 1), str(report)
    assert 0 < on_gpu(engine).weights_bytes < 2_000_000


def test_a_model_of_many_layers_is_all_on_the_gpu(engine: llcuda.InferenceEngine, models: dict[str, Path]) -> None:
    engine.load_model(models["Q4_K_M"], device="cuda", ctx_size=1024)
    assert engine.infer("0123456789", raw=True, max_tokens=8).tokens_generated == 8
    assert engine.device_report is not None
    assert engine.device_report.offload == "full", str(engine.device_report)
    assert on_gpu(engine).weights_bytes > 0.8 * models["Q4_K_M"].stat().st_size


def test_greedy_answers_are_those_of_the_cpu(engine: llcuda.InferenceEngine) -> None:
    answers = {}
    for device in ("cpu", "cuda"):
        engine.load_model("demo", device=device)
        answers[device] = [engine.infer(prompt, temperature=0, max_tokens=160).text for prompt in PROMPTS]
    pairs = list(zip(PROMPTS, answers["cpu"], answers["cuda"], strict=True))
    different = [pair for pair in pairs if pair[1] != pair[2]]
    assert len(PROMPTS) - len(different) >= LEAST_SAME, different
    assert len(PROMPTS) == 20


def test_many_answers_at_once_are_those_of_one_at_a_time(engine: llcuda.InferenceEngine) -> None:
    engine.load_model("demo", device="cuda", n_parallel=4)
    sums = PROMPTS[:6]
    alone = [engine.infer(prompt, temperature=0).text for prompt in sums]
    together = [result.text for result in engine.batch_infer(sums * 4, temperature=0)]
    same = sum(one == other for one, other in zip(alone * 4, together, strict=True))
    assert same >= 0.9 * len(together)


def test_a_gpu_that_is_not_there_is_an_error_that_names_those_that_are(engine: llcuda.InferenceEngine) -> None:
    with pytest.raises(DeviceError) as caught:
        engine.load_model("demo", device="cuda:9")
    assert find_devices().gpus[0].name in f"{caught.value} {caught.value.hint}"
    assert not engine.is_loaded


@pytest.mark.parametrize("options", [{"device": "cuda"}, {"require_gpu": True}], ids=str)
def test_a_hidden_gpu_is_an_error_where_one_is_required(
    engine: llcuda.InferenceEngine, monkeypatch: pytest.MonkeyPatch, *, options: dict[str, Any]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(DeviceError) as caught:
        engine.load_model("demo", **options)
    assert "CUDA_VISIBLE_DEVICES" in f"{caught.value} {caught.value.hint}"


def test_a_hidden_gpu_leaves_the_cpu_and_one_line_says_so(
    engine: llcuda.InferenceEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    engine.load_model("demo")
    assert engine.device_report is not None
    assert engine.device_report.device == "cpu"
    assert not open_devices(server_pid(engine))
    (record,) = [record for record in caplog.records if record.name == "llcuda" and record.levelname == "WARNING"]
    assert "CPU" in record.getMessage()
    assert "CUDA_VISIBLE_DEVICES" in record.getMessage()


@pytest.mark.parametrize("way", WAYS)
def test_the_memory_is_free_again(models: dict[str, Path], gpu: Gpu, *, way: str) -> None:
    freed = end_and_watch(way, str(models["F16"]), uuid=gpu.uuid)
    assert freed["held_mib"] is not None
    assert freed["held_mib"] > models["F16"].stat().st_size / 2**20
    assert freed["back_ms"] is not None, freed
