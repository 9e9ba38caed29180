"""Have many clients that do not read what they asked for: ``python -m benchmarks.gateway_slow_readers [--count 200]``.

Half read nothing and half a byte a second of streams without an end (tests/process/gateway/relay/test_slow_readers.py).
It fails if one is not cut, the gateway holds more than half a MiB for each, or any of the others is not answered.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from tests.process.gateway.relay.test_slow_readers import SlowFigures, run_slow_readers
from tests.watching import percentile

_MAX_MIB_EACH = 0.5


def describe(figures: SlowFigures) -> str:
    """Return what is to be seen in the figures."""
    before, during, cut = (
        " / ".join(f"{percentile(values, share):{form}}" for share in (0.5, 0.99, 1.0)) if values else "none"
        for values, form in ((figures.before_ms, ".0f"), (figures.during_ms, ".0f"), (figures.cut_seconds, ".1f"))
    )
    return (
        f"slow {figures.count}  cut {len(figures.cut_seconds)}, counted {figures.counted}  cut after, s {cut}\n"
        f"rss before {figures.rss_before:.0f} MiB, at most {figures.rss_highest:.0f}  lost {len(figures.lost)}\n"
        f"others, ms: before {before}; meanwhile {during}, of {len(figures.during_ms)}  load {os.getloadavg()[0]:.1f}"
    )


def main() -> int:
    """Run once and print the figures; times are p50 / p99 / max."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--write-timeout", type=float, default=5.0, help="seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    chosen = parser.parse_args()
    figures = run_slow_readers(chosen.count, write_timeout=chosen.write_timeout, before_seconds=5.0)
    print(describe(figures))
    if chosen.json:
        chosen.json.write_text(json.dumps(asdict(figures), indent=2) + "\n", encoding="utf-8")
    are_cut = len(figures.cut_seconds) == figures.counted == figures.count
    is_small = figures.rss_highest - figures.rss_before < _MAX_MIB_EACH * figures.count
    return 0 if are_cut and is_small and not figures.lost else 1


if __name__ == "__main__":
    sys.exit(main())
