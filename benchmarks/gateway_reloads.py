"""Replace every worker of a gateway in the midst of load: ``python -m benchmarks.gateway_reloads [--count 20]``.

Three real llama-servers with the demo model, six clients that ask for streams and whole answers of 600 tokens
(tests/process/fleet/processes/test_reloads.py). It fails where one of them is not answered to the end.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from tests.process.fleet.processes.test_reloads import run_reloads
from tests.watching import percentile


def main() -> int:
    """Run once and print the figures; times are p50 / p99 / max."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    chosen = parser.parse_args()
    figures = run_reloads(chosen.count)
    for name, values in (
        ("reload, s", figures.reload_seconds), ("before, ms", figures.before_ms), ("meanwhile, ms", figures.during_ms)
    ):  # fmt: skip
        print(name, " / ".join(f"{percentile(values, share):.1f}" for share in (0.5, 0.99, 1.0)))
    print(f"retries {figures.retries}  {figures.answers}  lost {len(figures.lost)}  load {os.getloadavg()[0]:.1f}")
    for lost in figures.lost:
        print(f"    lost: {lost}", file=sys.stderr)
    if chosen.json:
        chosen.json.write_text(json.dumps(asdict(figures), indent=2) + "\n", encoding="utf-8")
    return 1 if figures.lost else 0


if __name__ == "__main__":
    sys.exit(main())
