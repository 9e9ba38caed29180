"""Let the workers of a gateway fail in the midst of load: ``python -m benchmarks.gateway_faults [--count 50]``.

Each kind of failure is done so many times, to one worker of three in turn, while six clients ask for streams and whole
answers: tests/process/fleet/dispatch/test_faults.py says what the kinds are. It fails if a whole answer is not a 200, a
stream that has begun has no end, or anything is left. ``real`` is the real llama-server with the demo model. Times are
milliseconds.

    python -m benchmarks.gateway_faults [--kind KIND...] [--count 50] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.process.fleet.dispatch.test_faults import KINDS, MAX_EJECTED_MS, FaultFigures, run_faults
from tests.watching import percentile

_REAL = {"kill-real": "kill", "stop-real": "stop"}


def measure(kind: str, count: int) -> FaultFigures:
    """Run one kind."""
    return run_faults(_REAL.get(kind, kind), count, is_real=kind in _REAL)


def describe(kind: str, figures: FaultFigures) -> dict[str, Any]:
    """Return one row."""
    row: dict[str, Any] = {"kind": kind, "count": len(figures.noticed_ms)}
    for name in ("dying_ms", "noticed_ms", "ejected_ms", "back_ms"):
        values = getattr(figures, name)
        if not values:
            continue
        row[name] = " / ".join(f"{percentile(values, share):.1f}" for share in (0.5, 0.99, 1.0))
    late = sum(value > MAX_EJECTED_MS[_REAL.get(kind, kind)] for value in figures.ejected_ms)
    answers = sum(figures.answers.values())
    return {**row, "late": late, "answers": answers, "retries": figures.retries, "lost": len(figures.lost)}


def main() -> int:
    """Run the kinds and print a row for each; times are p50 / p99 / max."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    every = (*KINDS, *_REAL)
    parser.add_argument("--kind", nargs="+", choices=every, default=every, metavar="KIND", help=", ".join(every))
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    chosen = parser.parse_args()
    results = {}
    for kind in chosen.kind:
        load = os.getloadavg()[0]
        figures = results[kind] = measure(kind, chosen.count)
        row = {**describe(kind, figures), "load": round(load, 1)}
        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        print(f"    {figures.answers}", flush=True)
        for lost in figures.lost:
            print(f"    lost: {lost}", file=sys.stderr)
    if chosen.json:
        report = {kind: asdict(figures) for kind, figures in results.items()}
        chosen.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 1 if any(figures.lost for figures in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
