"""Send fuzzed bodies to real llama-servers behind a gateway: ``python -m benchmarks.body_fuzz [--count 10000]``.

So many of each family: messages, tools, schemas, grammars, sampling, prompts. Exits with 1 if a worker was lost, or
busy for longer than its bound, if another client's answer was wrong, or if an error was answered that is not
documented, and prints the body of each finding. ``--family F --first N --count 1`` sends the one of that number again.

    python -m benchmarks.body_fuzz [--family FAMILY...] [--count 10000] [--seed 0] [--model PATH] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from benchmarks.machine import describe_machine, format_machine
from tests.process.gateway.test_body_fuzz import FAMILIES, FuzzFigures, fuzz

_MAX_SHOWN = 2
_MAX_SAME = 60
"""Characters of what an error says that tell one from another."""
_MAX_CHARACTERS = 700


def show(figures: FuzzFigures) -> None:
    """Print a row, and the first bodies of each kind of finding."""
    rate = round(figures.bodies / figures.seconds)
    row = {"bodies": figures.bodies, "bodies/s": rate, "questions": figures.questions}
    statuses = ", ".join(f"{status}: {number:,}" for status, number in figures.statuses.most_common())
    print(f"{figures.family:9} ", "  ".join(f"{name} {value:,}" for name, value in row.items()), f" ({statuses})")
    shown: Counter[str] = Counter()
    for finding in sorted(figures.findings, key=lambda finding: len(finding.body)):
        what = f"{finding.kind} {finding.detail[:_MAX_SAME]}"
        shown[what] += 1
        if shown[what] <= _MAX_SHOWN:
            print(f"  {finding.kind}: body {finding.number}, {finding.path} {finding.body[:_MAX_CHARACTERS]}")
            print(f"    {finding.detail[:_MAX_CHARACTERS]}")
    for kind, number in figures.kinds.most_common():
        print(f"  {kind}: {number}")
    sys.stdout.flush()


def main() -> int:
    """Send the bodies and print what they did."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    families = tuple(FAMILIES)
    parser.add_argument("--family", nargs="+", choices=families, default=families, metavar="FAMILY")
    parser.add_argument("--count", type=int, default=10_000, help="of each family")
    parser.add_argument("--first", type=int, default=0, help="the number of the first body")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lanes", type=int, default=2, help="gateways, each with one worker")
    parser.add_argument("--model", type=Path, metavar="PATH", help="another model than the demo")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    chosen = parser.parse_args()
    machine = describe_machine()
    print(format_machine(machine), flush=True)
    results = []
    for family in chosen.family:
        options = {"seed": chosen.seed, "lanes": chosen.lanes, "first": chosen.first, "model": chosen.model}
        results.append(fuzz(family, chosen.count, **options))
        show(results[-1])
    if chosen.json:
        plain = [{**vars(one), "findings": [asdict(finding) for finding in one.findings]} for one in results]
        chosen.json.write_text(json.dumps({"machine": machine, "families": plain}, indent=2) + "\n", encoding="utf-8")
    return 1 if any(one.findings for one in results) else 0


if __name__ == "__main__":
    sys.exit(main())
