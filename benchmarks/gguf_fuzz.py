"""Read a million mutated GGUF headers: each is read or refused with ModelFormatError, in under 50 ms and 64 MB.

    python -m benchmarks.gguf_fuzz [--cases 1000000] [--seed 0]

Exits with 1 where one is not. Times are CPU times of this thread, so that other work on the machine does not count;
memory is the growth of the process's peak, which no single case can exceed. Before that, the largest header is timed.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from pathlib import Path

from llcuda.errors import ModelFormatError
from llcuda.gguf import parse_gguf, read_gguf
from tests.made_models.gguf_builder import large_model
from tests.made_models.gguf_mutator import Seed, cases, make_seed, make_seeds

MAX_MS = 50.0
MAX_MB = 64.0
DEMO = Path(__file__).parents[1] / "src" / "llcuda" / "models_data" / "demo-draft.gguf"


def main() -> int:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    measure_largest()
    seeds = add_demo(make_seeds())
    before, started = peak_mb(), time.perf_counter()
    reasons, slowest = run(arguments.cases, seed=arguments.seed, seeds=seeds)
    seconds, growth = time.perf_counter() - started, peak_mb() - before
    print_table(reasons, arguments.cases, seconds=seconds, slowest=slowest, growth=growth)
    return 0 if slowest <= MAX_MS and growth <= MAX_MB else 1


def measure_largest() -> None:
    """Print what the header of the largest vocabulary there is takes."""
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(large_model().build())
        file.flush()
        times = sorted(measure_read(file.name) for _ in range(15))
        tracemalloc.start()
        read_gguf(file.name)
        peak = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
    print(f"largest vocabulary: {times[0]:.1f} ms at best, {times[7]:.1f} ms in the middle of 15, {peak:.1f} MB\n")


def measure_read(path: str) -> float:
    """Return the milliseconds of this thread that reading the header takes."""
    started = time.thread_time()
    read_gguf(path)
    return (time.thread_time() - started) * 1000


def add_demo(seeds: tuple[Seed, ...]) -> tuple[Seed, ...]:
    """Add the real header of a demo model, where the package has one."""
    return (*seeds, make_seed(DEMO.read_bytes())) if DEMO.is_file() else seeds


def run(count: int, *, seed: int, seeds: tuple[Seed, ...]) -> tuple[Counter[str], float]:
    """Return how often each outcome came, and the longest time in milliseconds.

    Anything that is raised beside ModelFormatError ends the run.
    """
    reasons: Counter[str] = Counter()
    slowest = 0.0
    clock = time.thread_time
    for data in cases(count, seed=seed, seeds=seeds):
        started = clock()
        try:
            parse_gguf(data)
            outcome = "read"
        except ModelFormatError as error:
            outcome = "refused" if error.offset is not None else "refused without an offset"
        slowest = max(slowest, clock() - started)
        reasons[outcome] += 1
    return reasons, slowest * 1000


def peak_mb() -> float:
    """Return the most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def print_table(reasons: Counter[str], count: int, *, seconds: float, slowest: float, growth: float) -> None:
    """Print the figures as a Markdown table."""
    rows = [("cases", f"{count:,}"), *((name, f"{number:,}") for name, number in sorted(reasons.items()))]
    rows += [
        ("longest", f"{slowest:.2f} ms (limit {MAX_MS:.0f})"),
        ("growth of peak memory", f"{growth:.1f} MB (limit {MAX_MB:.0f})"),
        ("time", f"{seconds:.0f} s, {seconds / count * 1e6:.0f} µs a case with its mutation"),
    ]
    print("| What | Figure |\n| --- | --- |")
    print("\n".join(f"| {name} | {figure} |" for name, figure in rows))


if __name__ == "__main__":
    sys.exit(main())
