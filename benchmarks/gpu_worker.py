"""One measurement of benchmarks/gpu.py, in a process of its own that imports the llcuda to be measured.

    python -m benchmarks.gpu_worker WHAT '{"option": value, …}'

It prints its result as one line of JSON, the last of its output.
"""

from __future__ import annotations

import contextlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import llcuda
from benchmarks.gpu_machine import measure_copy
from llcuda.engine.placement import choose_placement
from llcuda.gguf import read_gguf
from llcuda.installer import BinaryInstaller
from llcuda.native import binaries_dir, child_environment, find_backends, find_executable, read_build_info
from tests.gpu.cublas import can_open, hide_library
from tests.gpu.memory import WAYS, end_and_watch
from tests.made_models.synthetic_model import SHAPES, count_read_bytes, scale_shape, write_model
from tools.binaries.bundle import pack

if TYPE_CHECKING:
    from collections.abc import Callable

_Result = TypeVar("_Result")
_WARM_UP_TOKENS = 16
_LOG_LINES = 3
_GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True}


def describe_build() -> dict[str, Any]:
    """Return what is measured: llama.cpp's tag and the backends."""
    build = read_build_info(binaries_dir())
    backends = [
        {"name": one.name, "toolkit": one.toolkit, "architectures": one.architectures, "compression": one.compression}
        for one in find_backends()
    ]
    for backend, found in zip(backends, find_backends(), strict=True):
        backend["bytes"] = str(found.library.stat().st_size)
    return {"llcuda": llcuda.__version__, "llama_cpp": build.llama_cpp_tag, "backends": backends}


def write_models(wanted: list[list[str]], *, scale: float, folder: str) -> dict[str, float]:
    """Write every ``[shape, quantisation]`` and return the seconds each took; a file is there when it is whole."""
    seconds = {}
    for shape, quantisation in wanted:
        path = Path(folder) / f"{shape}-{quantisation}.gguf"
        started = time.monotonic()
        partial = write_model(path.with_suffix(".part"), scale_shape(SHAPES[shape], scale), quantisation=quantisation)
        partial.replace(path)
        seconds[path.name] = round(time.monotonic() - started, 2)
    return seconds


def measure_speed(
    model: str,
    *,
    device: str,
    sizes: dict[str, int],
    rounds: int,
    shape: list[Any] | None = None,
    load: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return tokens/s of llama-bench and of the engine, taking turns, with the medians of their ratios.

    ``sizes`` are those of :func:`ask_engine`; ``shape`` is a synthetic model's name, quantisation and scale; ``load``
    are more options of load_model.
    """
    context = sizes["prompt"] + sizes["generate"] + 64
    with llcuda.InferenceEngine() as engine:
        engine.load_model(model, device=device, ctx_size=context, flash_attn=True, silent=True, **(load or {}))
        path, report = _loaded(engine)
        command = bench_command(path, sizes, threads=1 if model == "demo" else None)
        environment = bench_environment(device)
        ways: dict[str, Callable[[], dict[str, float]]] = {
            "llama-bench": lambda: run_bench(command, environment),
            "engine": lambda: ask_engine(engine, **sizes),
        }
        samples = take_turns(ways, rounds)
    return {**summarise_speed(samples), "weights_read_bytes": _count_bytes(path, shape), "device_report": report}


def take_turns(ways: dict[str, Callable[[], _Result]], rounds: int) -> dict[str, list[_Result]]:
    """Return what each way gave, one after the other and every second round in reverse."""
    samples: dict[str, list[_Result]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            samples[name].append(ways[name]())
    return samples


def _count_bytes(path: Path, shape: list[Any] | None) -> int:
    if shape is None:
        return read_gguf(path).tensor_bytes
    name, quantisation, scale = shape
    return count_read_bytes(scale_shape(SHAPES[name], scale), quantisation=quantisation)


def _loaded(engine: llcuda.InferenceEngine) -> tuple[Path, dict[str, Any]]:
    assert engine.model is not None  # noqa: S101 - for the type checker
    assert engine.device_report is not None  # noqa: S101
    return engine.model.path, engine.device_report.to_dict()


def bench_command(
    model: Path, sizes: dict[str, int], *, threads: int | None = None, attention: str = "on"
) -> list[str]:
    """Return llama-bench's command line."""
    options = {"-p": sizes["prompt"], "-n": sizes["generate"], "-r": sizes["repetitions"]}
    command = [str(find_executable("llama-bench")), "-m", str(model)]
    command += [str(word) for option in options.items() for word in option]
    return [*command, "-fa", attention, "-o", "json", *(["-t", str(threads)] if threads else [])]


def bench_environment(device: str) -> dict[str, str]:
    """Return the environment in which llama-bench uses what the engine would use."""
    placement = choose_placement(device, require_gpu=False)
    extra = {"GGML_NO_BACKTRACE": "1", "CUDA_VISIBLE_DEVICES": placement.visible_devices or ""}
    return child_environment(find_executable("llama-bench"), backend=placement.backend, extra=extra)


def run_bench(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Run llama-bench once and return the medians of its repetitions."""
    result = subprocess.run(
        command, env=environment, cwd=Path(command[0]).parent, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise RuntimeError(f"llama-bench ended with {result.returncode}: {_last_words(result.stderr)}")
    return parse_bench(result.stdout)


def parse_bench(text: str) -> dict[str, float]:
    """Return ``prompt`` and ``decode`` tokens/s of llama-bench's JSON."""
    tests = json.loads(text)
    return {"prompt" if test["n_prompt"] else "decode": statistics.median(test["samples_ts"]) for test in tests}


def _last_words(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-_LOG_LINES:])


def ask_engine(engine: llcuda.InferenceEngine, *, prompt: int, generate: int, repetitions: int) -> dict[str, float]:
    """Return the medians of the engine's tokens/s; decoding is timed here, where the pieces arrive."""
    time_decode(engine, _WARM_UP_TOKENS)
    prompts = [time_prompt(engine, prompt) for _ in range(repetitions)]
    decodes = [time_decode(engine, generate) for _ in range(repetitions)]
    return {"prompt": statistics.median(prompts), **_medians(decodes)}


def _medians(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def time_prompt(engine: llcuda.InferenceEngine, tokens: int) -> float:
    """Return the tokens/s at which a prompt of so many digits, each a token, is processed."""
    digits = "".join(random.choices("0123456789", k=tokens - 1))  # noqa: S311
    result = engine.infer(digits, raw=True, max_tokens=1, cache_prompt=False, **_GREEDY)
    return result.prompt_tokens / result.prompt_ms * 1e3


def time_decode(engine: llcuda.InferenceEngine, tokens: int) -> dict[str, float]:
    """Return the tokens/s from the first token to the end as they arrive here, and those that the server measured."""
    result = engine.infer("1", raw=True, max_tokens=tokens, cache_prompt=False, **_GREEDY)
    assert result.time_to_first_token_ms is not None  # noqa: S101 - for the type checker
    took_ms = result.latency_ms - result.time_to_first_token_ms
    return {"decode": (result.tokens_generated - 1) / took_ms * 1e3, "decode by the server": result.tokens_per_sec}


def summarise_speed(samples: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return medians over the rounds, and the median of the ratios within a round."""
    bench, engine = samples["llama-bench"], samples["engine"]
    result: dict[str, Any] = {who: _medians(rows) for who, rows in samples.items()}
    result["ratio"] = {
        kind: statistics.median(ours[kind] / theirs[kind] for ours, theirs in zip(engine, bench, strict=True))
        for kind in ("prompt", "decode")
    }
    clock = "decode by the server"
    result["ratio"][clock] = statistics.median(
        ours[clock] / theirs["decode"] for ours, theirs in zip(engine, bench, strict=True)
    )
    result["rounds"] = samples
    return result


def measure_start(model: str, *, device: str) -> dict[str, float]:
    """Return the milliseconds from the call to a server that answers, and to the first token."""
    with llcuda.InferenceEngine() as engine:
        started = time.perf_counter()
        engine.load_model(model, device=device, silent=True)
        ready = time.perf_counter()
        with engine.infer_stream("1+1=", max_tokens=1, temperature=0, ignore_eos=True) as stream:
            next(stream)
        first = time.perf_counter()
    return {"ready_ms": (ready - started) * 1e3, "first_token_ms": (first - started) * 1e3}


def measure_memory(model: str, *, device: str) -> dict[str, Any]:
    """Return for every way to end a server how long its memory took to be free again."""
    gpus = choose_placement(device, require_gpu=False).choice.gpus
    return {way: end_and_watch(way, model, uuid=gpus[0].uuid if gpus else None) for way in WAYS}


def measure_install(device: str, *, folder: str) -> dict[str, Any]:
    """Pack the binaries in use as a bundle, install it, and return the sizes, the seconds and the proof."""
    source = find_backends()[0].library.parent if device == "cuda" else binaries_dir()
    bundle = pack(source, output=Path(folder) / "bundles")
    installer = BinaryInstaller(Path(folder) / "installed", source=str(bundle))
    plan = installer.plan()
    begun = time.monotonic()
    installed = installer.install(plan)
    seconds = time.monotonic() - begun
    return {"bundle": bundle.name, "bytes": plan.bundle.bytes, "install_s": seconds, "proof": installed.proof}


def measure_cublas(models: list[str], *, sizes: dict[str, int], folder: str) -> list[dict[str, Any]]:
    """Run llama-bench on each model, with and without FlashAttention, with and without cuBLAS in reach."""
    backend = choose_placement("cuda", require_gpu=True).backend
    assert backend is not None  # noqa: S101 - for the type checker
    found = bench_environment("cuda")
    hidden = hide_library(backend.cublas, found, folder=Path(folder) / "hidden")
    there = can_open(backend.cublas, found)
    ways = {**({"found": found} if there else {}), "hidden": hidden}
    rows = []
    for model in models:
        for attention in ("on", "off"):
            command = bench_command(Path(model), sizes, attention=attention)
            for way, environment in ways.items():
                row = {"model": Path(model).stem, "flash_attention": attention, "cublas": way}
                rows.append({**row, **watch_bench(command, environment, library=backend.cublas)})
    return rows


def watch_bench(command: list[str], environment: dict[str, str], *, library: str) -> dict[str, Any]:
    """Run llama-bench and return its figures or its words, and whether it opened ``library``."""
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(
            command, env=environment, cwd=Path(command[0]).parent, stdout=subprocess.PIPE, stderr=said, text=True
        ) as process,
    ):
        assert process.stdout  # noqa: S101 - for the type checker
        opened = _watch_maps(process, library)
        out = process.stdout.read()
        said.seek(0)
        words = said.read()
    if process.returncode != 0:
        return {"opened": opened, "refused": _choose_words(words), "returncode": process.returncode}
    return {"opened": opened, **parse_bench(out)}


def _watch_maps(process: subprocess.Popen[str], library: str) -> bool:
    opened = False
    while process.poll() is None:
        with contextlib.suppress(OSError):
            opened = opened or library in Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8")
        time.sleep(0.02)
    return opened


def _choose_words(text: str) -> str:
    """Return what the stand-in for cuBLAS says, or else the last lines."""
    return next((line for line in text.splitlines() if line.startswith("llcuda: ")), _last_words(text))


WORK: dict[str, Callable[..., Any]] = {
    "build": describe_build,
    "copy": measure_copy,
    "cublas": measure_cublas,
    "memory": measure_memory,
    "install": measure_install,
    "models": write_models,
    "speed": measure_speed,
    "start": measure_start,
}


def main() -> None:
    """Do the work that is named, with the options given."""
    print(json.dumps(WORK[sys.argv[1]](**json.loads(sys.argv[2]))), flush=True)


if __name__ == "__main__":
    main()
