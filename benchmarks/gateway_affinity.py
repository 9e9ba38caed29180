"""Let conversations find their worker, or draw one by lot: ``python -m benchmarks.gateway_affinity [--workers 2 4 8]``.

The same trace of conversations (tests/process/fleet/dispatch/test_affinity.py) is held with a gateway that chooses as
it does and with one that draws lots, one after the other, in front of so many real llama-servers with the demo model.
A hit is a turn after the first with all that was said before in the cache of its worker. By lot that is one in so many
as there are workers, so that the ratio cannot be more than that number.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.process.fleet.dispatch.test_affinity import Conversation, Replay, build_trace, replay
from tests.watching import percentile, watched


def measure(trace: list[Conversation], *, workers: int, slots: int, choice: str) -> Replay:
    """Hold the conversations; ``choice`` is ``own`` or ``random``."""
    model = {"workers": workers, "slots": slots, "threads": 1, "ctx_size": 1024}
    with tempfile.TemporaryDirectory() as folder, watched(Path(folder), model=model, choice=choice) as gateway:
        return replay(gateway.port, trace)


def show(workers: int, own: Replay, drawn: Replay) -> None:
    """Print a row for each choice, and their ratio."""
    for choice, figures in (("own", own), ("random", drawn)):
        share = 100 * figures.reused_tokens / max(1, figures.reusable_tokens)
        row = {
            "workers": workers, "choice": choice, "later_turns": figures.later_turns, "hits": figures.hits,
            "reused": f"{share:.1f}%", "p50_ms": f"{percentile(figures.waits_ms, 0.5):.0f}",
            "p99_ms": f"{percentile(figures.waits_ms, 0.99):.0f}", "failures": len(figures.failures),
        }  # fmt: skip
        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    print(f"    hits {own.hits / max(1, drawn.hits):.1f} times, load {os.getloadavg()[0]:.1f}", flush=True)


def main() -> int:
    """Run the trace twice with each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--workers", nargs="+", type=int, default=(2, 4, 8))
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--conversations", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0, help="within which they begin")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    chosen = parser.parse_args()
    trace = build_trace(chosen.seed, conversations=chosen.conversations, seconds=chosen.seconds)
    report = []
    for workers in chosen.workers:
        own = measure(trace, workers=workers, slots=chosen.slots, choice="own")
        drawn = measure(trace, workers=workers, slots=chosen.slots, choice="random")
        show(workers, own, drawn)
        report.append({"workers": workers, "own": asdict(own), "random": asdict(drawn)})
    if chosen.json:
        chosen.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 1 if any(row[choice]["failures"] for row in report for choice in ("own", "random")) else 0


if __name__ == "__main__":
    sys.exit(main())
