"""Time whether the refusal of a wrong key tells how many of its first characters were right.

    python -m benchmarks.key_timing [--samples 200000]

Keys that are right in none, half and all but one of their characters are refused in turn, in an order that chance makes
anew for each round, and their times are compared with Welch's t. A comparison that stops at the first wrong character
is timed in the same way, to show that this would be found. Exits with 1 where |t| is 4.5 or more, dudect's bound, or
where the control stays below it. The slowest twentieth of each class is left out: other work of the machine.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from math import sqrt
from statistics import fmean, variance
from typing import TYPE_CHECKING

from llcuda.fleet.refusals import RefusedError
from llcuda.gateway import GatewayConfig, KeyConfig, ModelConfig
from llcuda.gateway.http.access import Access

if TYPE_CHECKING:
    from collections.abc import Callable

BOUND = 4.5
KEY = "sk-0123456789abcdefghijklmnopqrstuvwxyz0123456789"
RIGHT = (0, len(KEY) // 2, len(KEY) - 1)


def main() -> int:
    """Time both, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--samples", type=int, default=200_000)
    samples = parser.parse_args().samples
    print("| Compared | Right at the beginning | Mean | against none: t |\n| --- | --- | --- | --- |")
    highest = report("the gateway's refusal", refuse, samples=samples)
    control = report("control: stops at the first wrong character", stop_early, samples=samples)
    print(f"\nhighest |t|: {highest:.2f}; of the control: {control:.2f} (bound {BOUND})")
    return 0 if highest < BOUND <= control else 1


_ACCESS = Access(GatewayConfig((ModelConfig("demo", "demo"),), keys=(KeyConfig("owner", KEY),)), port=8090)


def refuse(key: str) -> None:
    """Have the gateway refuse a key."""
    try:
        _ACCESS.authenticate({"authorization": f"Bearer {key}"})
    except RefusedError:
        return
    raise AssertionError("a wrong key was taken")


def stop_early(key: str) -> None:
    """Compare as nobody should."""
    for mine, theirs in zip(key, KEY, strict=True):
        if mine != theirs:
            return


def report(name: str, compare: Callable[[str], None], *, samples: int) -> float:
    """Print a line for each class, and return the highest |t|."""
    times = [trim(each) for each in measure(compare, samples)]
    scores = [welch(times[0], each) for each in times[1:]]
    for right, each, score in zip(RIGHT, times, [None, *scores], strict=True):
        print(f"| {name} | {right} of {len(KEY)} | {fmean(each):.1f} ns | {'' if score is None else f'{score:+.2f}'} |")
    return max(map(abs, scores))


def measure(compare: Callable[[str], None], samples: int) -> list[list[int]]:
    """Return the nanoseconds of each class."""
    chance = random.Random(0)  # noqa: S311 - the same order each time
    keys = [KEY[:right] + "!" * (len(KEY) - right) for right in RIGHT]
    times: list[list[int]] = [[] for _ in keys]
    order = list(range(len(keys)))
    clock = time.perf_counter_ns
    for _ in range(samples):
        chance.shuffle(order)
        for number in order:
            key = keys[number]
            began = clock()
            compare(key)
            times[number].append(clock() - began)
    return times


def trim(times: list[int]) -> list[int]:
    """Leave the slowest twentieth out."""
    return sorted(times)[: len(times) * 19 // 20]


def welch(first: list[int], second: list[int]) -> float:
    """Return Welch's t of two samples."""
    spread = variance(first) / len(first) + variance(second) / len(second)
    return (fmean(second) - fmean(first)) / sqrt(spread)


if __name__ == "__main__":
    sys.exit(main())
