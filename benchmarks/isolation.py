"""Ask questions of known answers while others send what they like: ``python -m benchmarks.isolation``.

Both are answered by the same llama-servers. An answer that is not the known one is wrong; with each of the first ones
come the requests that its worker had been sent before. Exits with 1 if there is one, or if a question has no answer.

    python -m benchmarks.isolation [--questions 50000] [--family FAMILY...] [--seed 0] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.machine import describe_machine, format_machine
from tests.inputs.fuzzed_bodies import FAMILIES
from tests.process.gateway.test_isolation import run_isolation

_MAX_SHOWN = 5
_MAX_BEFORE = 10
_MAX_CHARACTERS = 400


def main() -> int:
    """Ask, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--questions", type=int, default=50_000)
    families = tuple(FAMILIES)
    parser.add_argument("--family", nargs="+", choices=families, default=families, metavar="FAMILY")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    chosen = parser.parse_args()
    machine = describe_machine()
    print(format_machine(machine), flush=True)
    figures = run_isolation(chosen.questions, seed=chosen.seed, families=tuple(chosen.family))
    rows = {
        "questions": figures.questions,
        "questions/s": round(figures.questions / figures.seconds),
        "wrong answers": figures.wrong_count,
        **{f"questions without an answer: {reason}": number for reason, number in figures.failed.most_common()},
        "fuzzed requests": figures.fuzzed.total(),
        **{f"- {status}": number for status, number in figures.fuzzed.most_common()},
        "workers started anew": figures.restarts,
        **{f"in use at the end: {name.strip()}": number for name, number in figures.in_use.items()},
    }
    print("| What | Figure |\n| --- | --- |")
    print("\n".join(f"| {name} | {number:,} |" for name, number in rows.items()))
    if figures.restarts:
        print(figures.log)
    for wrong in figures.wrong[:_MAX_SHOWN]:
        print(f"\n{wrong.question}\n  {wrong.outcome}\n  from {wrong.worker}, which had been sent, the last first:")
        print("\n".join(f"    {text[:_MAX_CHARACTERS]}" for text in wrong.before[:_MAX_BEFORE]))
    if chosen.json:
        plain = {**vars(figures), "wrong": [asdict(wrong) for wrong in figures.wrong]}
        chosen.json.write_text(json.dumps({"machine": machine, **plain}, indent=2) + "\n", encoding="utf-8")
    return 1 if figures.wrong_count or figures.failed or figures.in_use else 0


if __name__ == "__main__":
    sys.exit(main())
