"""Kill and stop llama-server's owner many times at random moments: ``python -m benchmarks.kill [--count 300]``.

Every repetition must end with nothing left of the server, within 250 ms where the owner was killed, and with no
bystander touched. The table says how long it took; ``met`` is how often there was a server or its guard to end at that
moment. On a machine that does other things too, a killed process waits for its turn to die: ``max_after_death_ms`` is
without that, and ``chrt -r 1`` before the command keeps the others out.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.kill import MAX_GONE_MS, MODES, Figures
from tests.tiny_model import write_tiny_model


def main() -> int:
    """Run the modes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--mode", action="append", choices=list(MODES))
    parser.add_argument("--model", type=Path, help="default: a tiny model of random weights")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = chosen.model or write_tiny_model(Path(folder) / "tiny.gguf")
        results = []
        for mode in chosen.mode or MODES:
            results.append(MODES[mode](chosen.count, model=model.resolve()))
            show(results[-1], as_json=chosen.json)
    kills = [figures for figures in results if not figures.mode.startswith("stop")]
    slow = [figures.mode for figures in kills if max(figures.times_ms) >= MAX_GONE_MS]
    for mode in slow:
        print(f"{mode}: not always gone within {MAX_GONE_MS} ms", file=sys.stderr)
    return 1 if slow else 0


def show(figures: Figures, *, as_json: bool) -> None:
    """Print one mode's figures, milliseconds."""
    row = {
        "mode": figures.mode,
        "count": len(figures.times_ms),
        "met": figures.met,
        "p50_ms": round(figures.percentile(0.5), 1),
        "p99_ms": round(figures.percentile(0.99), 1),
        "max_ms": round(max(figures.times_ms), 1),
        "max_after_death_ms": round(max(figures.after_death_ms, default=0), 1),
        "returncodes": figures.returncodes,
    }
    print(json.dumps(row) if as_json else "  ".join(f"{name} {value}" for name, value in row.items()), flush=True)


if __name__ == "__main__":
    sys.exit(main())
