"""Put a gateway under everything at once: ``python -m benchmarks.soak [--minutes 30] [--model PATH]``.

32 clients over HTTP and 8 over gRPC ask a real ``llcuda serve`` with two workers of the demo model, and one of another
model if its path is given. A quarter of the requests are left in the midst, some are bad, processes of clients are
killed, workers too, and all workers are replaced every minute: tests/process/gateway/test_soak.py says what has to
hold then.
Prints one table, and exits with 1 if anything does not hold.

    python -m benchmarks.soak [--minutes 30] [--model PATH] [--seed 0] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.machine import describe_machine, format_machine
from tests.process.gateway.test_soak import Soak, run_soak

_MAX_SHOWN = 40


def main() -> int:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--model", type=Path, metavar="PATH", help="a second model, which goes on with a count")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    chosen = parser.parse_args()
    machine = describe_machine()
    print(format_machine(machine), flush=True)
    figures = run_soak(Soak(60 * chosen.minutes, model=chosen.model, seed=chosen.seed))
    print("| What | Figure |\n| --- | --- |")
    for name, value in figures.rows():
        print(f"| {name} | {value} |")
    for violation in figures.violations[:_MAX_SHOWN]:
        print(violation, file=sys.stderr)
    if chosen.json:
        report = {"machine": machine, **figures.to_plain()}
        chosen.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 1 if figures.violations else 0


if __name__ == "__main__":
    sys.exit(main())
