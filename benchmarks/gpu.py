"""Everything that is measured on a GPU, in one call of a few minutes on a machine that has nothing but a driver.

It installs the wheel that it is given into a folder of its own, runs tests/gpu with it, makes models of random weights
in the shape of real ones, and measures; gpu.json and gpu.md in the output folder are written anew after every step, so
that a call which is cut short has not been for nothing. The steps stand in the order of their importance. One that
does not fit into what is left of the budget is dropped, and the report says so; ``--only`` chooses some.

    python3 -m benchmarks.gpu --wheel WHEEL [--wheels-dir FOLDER] [--second-wheel WHEEL] --output FOLDER

Run it in the repository's root. Python 3.10 or newer, pip, pytest and pytest-timeout must be there, or lie as wheels
in ``--wheels-dir``; CUDA's toolkit need not be. ``--second-wheel`` is the same wheel with its backend compressed
otherwise: both are started in turns. ``--device cpu --model-scale 0.06`` tries all of it in a minute without a GPU.

On a machine elsewhere, reached with little luggage: put a wheel with the backend for that GPU alone into the ignored
folder .gpu, take that along, and give it the time that there is, in seconds:

    python3 -m benchmarks.gpu --wheel .gpu/llcuda-*.whl --output results --budget 560
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu_machine import DATASHEET_GBPS, describe_machine
from benchmarks.gpu_report import render

if TYPE_CHECKING:
    from collections.abc import Callable

_ROOT = Path(__file__).resolve().parent.parent
_MODELS = [("7b", "Q4_K_M"), ("7b", "F16"), ("moe", "Q4_K_M")]
_MODELS_BYTES = 24e9
_NOTHING_COLLECTED = 5
_SIZES = {"prompt": 512, "generate": 128, "repetitions": 3}
_SHORT_SIZES = {"prompt": 128, "generate": 32, "repetitions": 2}
_STARTS = 7
_PATIENCE = 4
"""A step that takes so many times what it should has hung, and must not take the others' time."""


@dataclass
class Bench:
    """One call: its options, its folders, and what was found so far."""

    options: argparse.Namespace
    folder: Path
    started: float = field(default_factory=time.monotonic)
    report: dict[str, Any] = field(default_factory=dict)
    targets: dict[str, Path | None] = field(default_factory=dict)
    """Where each wheel was installed; None is the llcuda that is there already."""
    writer: subprocess.Popen[bytes] | None = None
    step_end: float = float("inf")
    """When the step that runs now has taken far longer than it should, on the clock of ``time.monotonic``."""

    @property
    def left(self) -> float:
        """The seconds that are left of the budget."""
        return float(self.options.budget) - (time.monotonic() - self.started)

    @property
    def patience(self) -> float:
        """The seconds that one command may still take."""
        return max(1.0, min(self.left, self.step_end - time.monotonic()))

    def save(self) -> None:
        """Write what there is so far."""
        output: Path = self.options.output
        (output / "gpu.json").write_text(json.dumps(self.report, indent=2) + "\n", encoding="utf-8")
        (output / "gpu.md").write_text(render(self.report), encoding="utf-8")

    def work(self, what: str, *, target: str = "wheel", **options: Any) -> Any:
        """Let a process of its own measure, and return its result; raises RuntimeError with its last words."""
        command = [sys.executable, "-m", "benchmarks.gpu_worker", what, json.dumps(options)]
        out = self.run(command, target=target)
        return json.loads(out.splitlines()[-1])

    def run(self, command: list[str], *, target: str = "wheel", expected: tuple[int, ...] = (0,)) -> str:
        """Run a command to its end, or to that of the budget; its errors go to the log."""
        with (self.options.output / "gpu.log").open("a+", encoding="utf-8") as log:
            begun = log.tell()
            process = subprocess.Popen(
                command, cwd=_ROOT, env=self.environment(target), stdout=subprocess.PIPE, stderr=log,
                stdin=subprocess.DEVNULL, text=True, start_new_session=True,
            )  # fmt: skip
            out = self._wait(process)
            log.seek(begun)
            said = log.read().splitlines()
        if process.returncode not in expected:
            raise RuntimeError(f"exit status {process.returncode}: {' | '.join(said[-3:])}")
        return out

    def _wait(self, process: subprocess.Popen[str]) -> str:
        try:
            return process.communicate(timeout=self.patience)[0]
        except subprocess.TimeoutExpired:
            raise RuntimeError("it took too long, or the budget ran out in the middle of it") from None
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()

    def environment(self, target: str) -> dict[str, str]:
        """Return the environment of what is measured: the wheel's folder first, and nothing kept at home."""
        folder = self.targets.get(target)
        paths = [str(folder)] if folder else []
        paths += [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
        ours = {"PYTHONPATH": os.pathsep.join(paths), "LLCUDA_HOME": str(self.folder / "home"), "LLCUDA_OFFLINE": "1"}
        return {**os.environ, **ours, "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

    def find_model(self, shape: str, quantisation: str) -> str:
        """Wait until the model is written, and return its path."""
        path = self.folder / "models" / f"{shape}-{quantisation}.gguf"
        while not path.exists():
            if self.writer is None or self.writer.poll() is not None or self.patience <= 1:
                raise RuntimeError(f"{path.name} was not written; gpu.log says why")
            time.sleep(0.05)
        return str(path)


@dataclass(frozen=True)
class Step:
    """One thing to measure, the seconds that must be left for it, and whether it needs a GPU."""

    name: str
    seconds: float
    run: Callable[[Bench], Any]
    gpu_only: bool = False


def install(bench: Bench) -> dict[str, Any]:
    """Install the wheels, describe what is to be measured, and begin to write the models."""
    wheels = {"wheel": bench.options.wheel, "second": bench.options.second_wheel}
    for name, wheel in wheels.items():
        if wheel or name == "wheel":
            bench.targets[name] = _install(bench, name, wheel) if wheel else None
    wanted = [list(model) for model in _MODELS if model[0] != "moe" or bench.options.device == "cuda"]
    _start_writer(bench, wanted)
    return {name: {**_describe(wheels[name]), **bench.work("build", target=name)} for name in bench.targets}


def _install(bench: Bench, name: str, wheel: Path) -> Path:
    others = sorted(bench.options.wheels_dir.glob("*.whl")) if bench.options.wheels_dir else []
    wheels = [str(path.resolve()) for path in (wheel, *(path for path in others if path.resolve() != wheel.resolve()))]
    target = bench.folder / name
    quiet = ["-q", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir"]
    bench.run([sys.executable, "-m", "pip", "install", *quiet, "--target", str(target), *wheels])
    return target


def _describe(wheel: Path | None) -> dict[str, Any]:
    if wheel is None:
        return {"wheel": "none: the llcuda that is installed"}
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return {"wheel": wheel.name, "sha256": f"sha256:{digest}", "wheel_bytes": wheel.stat().st_size}


def _start_writer(bench: Bench, wanted: list[list[str]]) -> None:
    """Write the models beside what is done meanwhile: most of that time goes into the page cache."""
    folder = bench.folder / "models"
    options = {"wanted": wanted, "scale": bench.options.model_scale, "folder": str(folder)}
    with (bench.options.output / "gpu.log").open("a", encoding="utf-8") as log:
        bench.writer = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu_worker", "models", json.dumps(options)],
            cwd=_ROOT, env=bench.environment("wheel"), stdout=subprocess.DEVNULL, stderr=log,
        )  # fmt: skip


def run_tests(bench: Bench) -> dict[str, Any]:
    """Run tests/gpu with the installed wheel; its output is in tests.log."""
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-p", "pytest_timeout", "--timeout=60"]
    out = bench.run([*command, "-p", "no:cacheprovider"], expected=(0, 1, _NOTHING_COLLECTED))
    (bench.options.output / "tests.log").write_text(out, encoding="utf-8")
    lines = out.splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return {"summary": lines[-1].strip("= "), "failed": failed}


def measure_copy(bench: Bench) -> dict[str, float | None]:
    """Return the bandwidth of the GPU's memory: NVIDIA's figure and a measured one."""
    gpus = bench.report["machine"]["gpus"]
    return {"datasheet_gbps": DATASHEET_GBPS.get(gpus[0]["name"]) if gpus else None, "copy_gbps": bench.work("copy")}


def measure_demo(bench: Bench) -> Any:
    """Return the speed of the model in the wheel."""
    return bench.work("speed", model="demo", device=bench.options.device, sizes=_SIZES, rounds=5)


def measure_model(shape: str, quantisation: str, **load: Any) -> Callable[[Bench], Any]:
    """Return the step that measures the speed of one synthetic model; ``load`` are options of load_model."""

    def run(bench: Bench) -> Any:
        place = [shape, quantisation, bench.options.model_scale]
        return bench.work(
            "speed", model=bench.find_model(shape, quantisation), device=bench.options.device, sizes=_SIZES, rounds=3,
            shape=place, load=load,
        )  # fmt: skip

    return run


def measure_memory(bench: Bench) -> Any:
    """Return how soon memory is back after every way to end a server."""
    return bench.work("memory", model=bench.find_model("7b", "Q4_K_M"), device=bench.options.device)


def measure_install(bench: Bench) -> Any:
    """Return how long a bundle of these binaries takes to install, and what its proof says."""
    return bench.work("install", device=bench.options.device, folder=str(bench.folder))


def measure_starts(bench: Bench) -> dict[str, Any]:
    """Return the medians of starts, of both wheels in turns where there are two."""
    models = {"demo": "demo", "7b-Q4_K_M": bench.find_model("7b", "Q4_K_M")}
    rounds: dict[str, dict[str, list[Any]]] = {name: {label: [] for label in models} for name in bench.targets}
    for _ in range(_STARTS):
        for label, model in models.items():
            for name in bench.targets:
                start = bench.work("start", target=name, model=model, device=bench.options.device)
                rounds[name][label].append(start)
    return rounds


def measure_cublas(bench: Bench) -> Any:
    """Return what runs without cuBLAS, what does not, and how fast."""
    models = [bench.find_model(*model) for model in _MODELS]
    sizes = {**_SIZES, "generate": 32, "repetitions": 2}
    return bench.work("cublas", models=models, sizes=sizes, folder=str(bench.folder))


def measure_cpu(bench: Bench) -> dict[str, Any]:
    """Return the same machine's speed without its GPU."""
    model, place = bench.find_model("7b", "Q4_K_M"), ["7b", "Q4_K_M", bench.options.model_scale]
    return {
        "demo": bench.work("speed", model="demo", device="cpu", sizes=_SIZES, rounds=1),
        "7b-Q4_K_M": bench.work("speed", model=model, device="cpu", sizes=_SHORT_SIZES, rounds=1, shape=place),
    }


STEPS = (
    Step("install", 20, install),
    Step("tests", 90, run_tests),
    Step("bandwidth", 10, measure_copy, gpu_only=True),
    Step("speed demo", 20, measure_demo),
    Step("speed 7b-Q4_K_M", 40, measure_model("7b", "Q4_K_M")),
    Step("memory", 30, measure_memory),
    Step("bundle", 30, measure_install),
    Step("speed 7b-F16", 60, measure_model("7b", "F16")),
    Step("cublas", 90, measure_cublas, gpu_only=True),
    Step("start", 40, measure_starts),
    Step("speed 7b-Q4_K_M, sampled there", 30, measure_model("7b", "Q4_K_M", backend_sampling=True), gpu_only=True),
    Step("cpu", 60, measure_cpu, gpu_only=True),
)
"""The seconds are what an H200 with 16 cores is expected to take; they only decide what is begun."""


def run_steps(bench: Bench, steps: list[Step]) -> None:
    """Run what fits, and keep its result or its error."""
    for step in steps:
        if bench.left < step.seconds:
            bench.report["dropped"][step.name] = f"{bench.left:.0f} s were left, and {step.seconds:.0f} s are needed"
            continue
        print(f"{step.name} …", file=sys.stderr, flush=True)
        begun = time.monotonic()
        if bench.options.device == "cuda":
            bench.step_end = begun + _PATIENCE * step.seconds
        entry: dict[str, Any] = {}
        try:
            entry["result"] = step.run(bench)
        except (RuntimeError, OSError, ValueError, LookupError) as error:
            entry["error"] = str(error)
        entry["seconds"] = round(time.monotonic() - begun, 1)
        bench.report["steps"][step.name] = entry
        bench.save()
        if step.run is install and "error" in entry:
            break


def choose_steps(options: argparse.Namespace) -> list[Step]:
    """Return the steps that are wanted; without a GPU there are fewer."""
    return [
        step
        for step in STEPS
        if (options.device == "cuda" or not step.gpu_only)
        and (not options.only or step.name in options.only or step.run is install)
    ]


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, help="default: the llcuda that is installed")
    parser.add_argument("--second-wheel", type=Path, help="the same, its backend compressed otherwise")
    parser.add_argument("--wheels-dir", type=Path, help="wheels of what the machine lacks, installed beside it")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--models-dir", type=Path, help="a folder with 24 GB left; default: memory, or the disk")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--model-scale", type=float, default=1.0, help="so many times the layers and the width of 7b")
    parser.add_argument("--budget", type=float, default=540, help="seconds")
    parser.add_argument("--only", action="append", choices=[step.name for step in STEPS if step.run is not install])
    return parser.parse_args()


def choose_folder(chosen: Path | None, scale: float) -> Path | None:
    """Return where the models go: memory is the quickest disk, where it has room."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
    if chosen or not memory.is_dir() or shutil.disk_usage(memory).free < 2 * _MODELS_BYTES * min(1.0, scale):
        return chosen
    return memory


def _show(value: object) -> str:
    return value.name if isinstance(value, Path) else str(value)


def main() -> int:
    """Run the steps and print the report."""
    options = parse_options()
    options.output.mkdir(parents=True, exist_ok=True)
    place = choose_folder(options.models_dir, options.model_scale)
    with tempfile.TemporaryDirectory(prefix="llcuda-gpu-", dir=place) as folder:
        bench = Bench(options, Path(folder))
        (bench.folder / "models").mkdir()
        shown = {name: _show(value) for name, value in vars(options).items() if value is not None and name != "output"}
        bench.report = {"machine": describe_machine(), "options": shown, "steps": {}, "dropped": {}}
        try:
            run_steps(bench, choose_steps(options))
        finally:
            if bench.writer:
                bench.writer.kill()
                bench.writer.wait()
            bench.save()
    print(render(bench.report))
    return int(any("error" in entry for entry in bench.report["steps"].values()))


if __name__ == "__main__":
    sys.exit(main())
