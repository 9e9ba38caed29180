"""Have clients without a key hold what they can: ``python -m benchmarks.unauthenticated [--seconds 60]``.

Each kind of :data:`tests.scenarios.strangers.KINDS` is tried on a gateway of its own, on a loopback address, while a
client with a key asks the demo model. It fails where an answer is wrong, where the gateway grows by more than 50 MiB or
keeps a descriptor, where its log is longer than 64 KiB, or where a quick answer takes more than five times as long.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.machine import describe_machine, format_machine
from tests.scenarios.strangers import KINDS, run_strangers
from tests.watching import percentile

if TYPE_CHECKING:
    from tests.scenarios.strangers import StrangerFigures

_MOST_MIB = 50
_MOST_LOG_BYTES = 64 << 10
_MOST_TIMES = 5
_COUNTS = {"connections": 5000, "handshakes": 5000, "slow heads": 5000, "large heads": 5000, "grpc": 5000}
_OTHERS = 60


def describe(figures: StrangerFigures) -> str:
    """Return a row of the table: p50 and p99 without and with, their ratio, memory, descriptors, log."""
    quiet, busy = (
        [percentile(values, share) for share in (0.5, 0.99)] for values in (figures.quiet_ms, figures.busy_ms)
    )
    return (
        f"| {figures.kind} | {figures.count} | {figures.opened} | {quiet[0]:.0f} / {quiet[1]:.0f} | "
        f"{busy[0]:.0f} / {busy[1]:.0f} | {busy[0] / quiet[0]:.1f} / {busy[1] / quiet[1]:.1f} | "
        f"{figures.rss_before:.0f} + {figures.rss_highest - figures.rss_before:.0f} | "
        f"{figures.descriptors_before} / {figures.descriptors_highest} / {figures.descriptors_after} | "
        f"{figures.log_bytes} | {len(figures.wrong)} |"
    )


def is_good(figures: StrangerFigures) -> bool:
    """Tell whether the figures are within the bounds."""
    ratio = percentile(figures.busy_ms, 0.99) / percentile(figures.quiet_ms, 0.99)
    is_small = figures.rss_highest - figures.rss_before <= _MOST_MIB and figures.log_bytes <= _MOST_LOG_BYTES
    return is_small and not figures.wrong and ratio <= _MOST_TIMES


def main() -> int:
    """Try each kind, and print a row for it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each kind")
    parser.add_argument("--kind", action="append", choices=list(KINDS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    chosen = parser.parse_args()
    print(format_machine(describe_machine()))
    print("| kind | at once | opened | ms without, p50 / p99 | with | times | MiB | descriptors | log, bytes | wrong |")
    all_figures = []
    for kind in chosen.kind or KINDS:
        (figures,) = run_strangers(kind, count=_COUNTS.get(kind, _OTHERS), seconds=chosen.seconds)
        print(describe(figures), flush=True)
        all_figures.append(figures)
    print(format_machine(describe_machine()))
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(one) for one in all_figures], indent=2) + "\n", encoding="utf-8")
    return 0 if all(is_good(figures) for figures in all_figures) else 1


if __name__ == "__main__":
    sys.exit(main())
