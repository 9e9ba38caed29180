"""Go away in the midst of a real llama-server's answers: ``python -m benchmarks.gateway_cancels [--count 250]``.

So many clients had asked for a stream, for a whole answer, and for a whole answer with probabilities. The times are
milliseconds until the slot is free, p50 / p99 / max: as the gateway counts, and as llama-server's ``/slots`` says.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path

from tests.process.gateway.relay.test_cancels import CancelFigures, run_cancels
from tests.watching import percentile


def show(figures: CancelFigures) -> None:
    """Print one row."""
    row = {"kind": figures.kind, "count": len(figures.server_ms), "missed": figures.missed}
    for name in ("gateway_ms", "server_ms"):
        values = getattr(figures, name)
        row[name] = " / ".join(f"{percentile(values, share):.1f}" for share in (0.5, 0.99, 1.0))
    print("  ".join(f"{name} {value}" for name, value in row.items()), f" load {os.getloadavg()[0]:.1f}", flush=True)


def main() -> None:
    """Run the kinds and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=250, help="of each kind")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    chosen = parser.parse_args()
    results = [run_cancels(kind, chosen.count) for kind in ("stream", "whole", "probabilities")]
    for figures in results:
        show(figures)
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(figures) for figures in results], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
