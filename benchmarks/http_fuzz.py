"""Read a million streams of HTTP requests with the gateway's reader and with h11, and compare what they understand.

    python -m benchmarks.http_fuzz [--cases 1000000] [--seed 0]

Exits with 1 where they disagree: where the gateway takes what h11 refuses, or where both take something else. What the
gateway alone refuses is counted by its reason. Each stream comes to the gateway in pieces, and in every fourth case it
is read once more in one piece, which must come to the same.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import chain

from tests.inputs.http_cases import SAVED, cases, split
from tests.inputs.http_differential import compare, name_lenience, read_here, read_there

MAX_SHOWN = 20
WHOLE_EVERY = 4


@dataclass
class Tally:
    """What was counted."""

    streams: int = 0
    messages: int = 0
    agreed: int = 0
    refused_by_both: int = 0
    lenient: Counter[str] = field(default_factory=Counter)
    stricter: Counter[str] = field(default_factory=Counter)
    disagreements: Counter[str] = field(default_factory=Counter)
    shown: list[tuple[str, bytes]] = field(default_factory=list)


def main() -> int:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.process_time()
    tally = run(arguments.cases, seed=arguments.seed)
    print_table(tally, seconds=time.process_time() - started)
    return 1 if tally.disagreements else 0


def run(count: int, *, seed: int) -> Tally:
    """Return what came of so many streams, and of those that are saved."""
    tally, chance = Tally(), random.Random(seed)  # noqa: S311 - the same cases each time
    for stream in chain(SAVED, cases(count, seed=seed)):
        note(tally, stream, split(stream, chance))
    return tally


def note(tally: Tally, stream: bytes, pieces: list[bytes]) -> None:
    """Read one stream on both sides, and count what came of it."""
    here, there = read_here(pieces), read_there(stream)
    problem = compare(here, there)
    if not problem and tally.streams % WHOLE_EVERY == 0 and read_here([stream]).messages != here.messages:
        problem = "read in another way in one piece"
    tally.streams += 1
    tally.messages += len(here.messages)
    if problem and (reason := name_lenience(problem)):
        tally.lenient[reason] += 1
    elif problem:
        problem = problem.partition("bytearray")[0]
        tally.disagreements[problem] += 1
        if len(tally.shown) < MAX_SHOWN and tally.disagreements[problem] <= 3:  # noqa: PLR2004
            tally.shown.append((problem, stream))
    elif here.refusal and len(there.messages) > len(here.messages):
        tally.stricter[re.sub(r"'.*|\d+ bytes.*", "...", here.refusal)] += 1
    elif here.refusal:
        tally.refused_by_both += 1
    else:
        tally.agreed += 1


def print_table(tally: Tally, *, seconds: float) -> None:
    """Print the figures as a Markdown table, and the first streams of each disagreement."""
    rows = [
        ("streams", tally.streams),
        ("requests taken", tally.messages),
        ("streams read to the end by both, the same", tally.agreed),
        ("streams that the gateway refused, at a request that h11 did not take either", tally.refused_by_both),
        ("streams that h11 read further than the gateway", sum(tally.stricter.values())),
        *((f"- {reason}", number) for reason, number in tally.stricter.most_common()),
        ("streams that the gateway read further than h11, for a reason that is safe", sum(tally.lenient.values())),
        *((f"- {reason}", number) for reason, number in tally.lenient.most_common()),
        ("disagreements", sum(tally.disagreements.values())),
        *((f"- {reason}", number) for reason, number in tally.disagreements.most_common()),
    ]
    print("| What | Figure |\n| --- | --- |")
    print("\n".join(f"| {name} | {number:,} |" for name, number in rows))
    print(f"| CPU time | {seconds:.0f} s, {seconds / tally.streams * 1e6:.0f} µs a stream |")
    for problem, stream in tally.shown:
        print(f"\n{problem}: {stream!r}")


if __name__ == "__main__":
    sys.exit(main())
