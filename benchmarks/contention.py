"""What a model loses to other processes that want its cores: ``python -m benchmarks.contention MODEL``.

Tokens a second of the bundled llama-bench, for decoding and for prompts, with each number of threads: at rest, with one
busy process for each core, and with four. Several builds, each a folder of binaries, take turns in every round, so that
their ratio holds on a machine that changes. A figure is the median of the rounds, with its range.

    python -m benchmarks.contention MODEL [--binaries FOLDER...] [--threads N...] [--busy N...] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.machine import describe_machine, format_machine
from llcuda.native import binaries_dir

if TYPE_CHECKING:
    from collections.abc import Iterator

_SPIN = "while True: pass"
_TOKENS, _PROMPT = 32, 128


@contextmanager
def keep_busy(count: int) -> Iterator[None]:
    """Run so many processes that want a core each."""
    processes = [subprocess.Popen([sys.executable, "-c", _SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(binaries: Path, model: Path, *, threads: int) -> dict[str, float]:
    """Return tokens/s of ``decode`` and ``prompt``, each of one repetition after llama-bench's own warm-up."""
    command = [str(binaries / "llama-bench"), "-m", str(model), "-t", str(threads), "-o", "json", "-r", "1"]
    done = subprocess.run([*command, "-p", str(_PROMPT), "-n", str(_TOKENS)], capture_output=True, check=True)
    return {"decode" if one["n_gen"] else "prompt": one["avg_ts"] for one in json.loads(done.stdout)}


def main() -> int:
    """Measure, and print a table."""
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model", type=Path)
    parser.add_argument("--binaries", type=Path, nargs="+", default=[binaries_dir()], metavar="FOLDER")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, cores}))
    parser.add_argument("--busy", type=int, nargs="+", default=[0, cores, 4 * cores], help="processes beside it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    chosen = parser.parse_args()
    machine = describe_machine()
    print(format_machine(machine), flush=True)
    figures: dict[tuple[int, int, str, str], list[float]] = defaultdict(list)
    for _ in range(chosen.rounds):
        for busy in chosen.busy:
            with keep_busy(busy):
                for threads in chosen.threads:
                    for folder in chosen.binaries:
                        for kind, speed in measure(folder, chosen.model, threads=threads).items():
                            figures[busy, threads, kind, str(folder)].append(speed)
    print("| busy processes | threads | | " + " | ".join(map(str, chosen.binaries)) + " |")
    print("| --- " * (3 + len(chosen.binaries)) + "|")
    for busy, threads, kind in dict.fromkeys(key[:3] for key in figures):
        speeds = [figures[busy, threads, kind, str(folder)] for folder in chosen.binaries]
        cells = [f"{statistics.median(one):.1f} ({min(one):.1f}–{max(one):.1f})" for one in speeds]  # noqa: RUF001
        print(f"| {busy} | {threads} | {kind} | {' | '.join(cells)} |")
    if chosen.json:
        names = ("busy", "threads", "kind", "binaries")
        rows = [{**dict(zip(names, key, strict=True)), "tokens_per_sec": speeds} for key, speeds in figures.items()]
        chosen.json.write_text(json.dumps({"machine": machine, "figures": rows}, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
