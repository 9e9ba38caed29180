"""Where the gateway's time goes: `llcuda serve` under load, looked at by py-spy from outside.

A stub of llama-server answers at once, 32 connections ask (benchmarks/load.c), and every sample of the thread that
relays is counted for the function it is in; what a function of CPython's own or a system call takes counts for the
line of Python that calls it. Without what waits for work.

    python benchmarks/gateway_profile.py [--seconds 15] [--top 16]
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from gateway_load import Load, build_body, compile_load
from gateway_rivals import Workplace, running
from machine import describe_machine, format_machine

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway_rivals import Rival

_CONNECTIONS = 32
_DRAIN = 5.0
_MARGIN = 2.0  # seconds that the load goes on around the samples
_SAMPLES = 100  # a second: the gateway stands still for each
_LOOP = "_run_once"  # of asyncio
# A frame of py-spy's: what it is called, the file it is in, and the line.
_FRAME = re.compile(r"(?P<name>.+) \((?P<file>[^()]+)(?::\d+)\)")


def record(rival: Rival, *, folder: Path, seconds: float) -> list[str]:
    """Return the stacks of the gateway's threads, each with how often it was seen."""
    spy = shutil.which("py-spy")
    if spy is None:
        raise SystemExit("py-spy is needed: pip install py-spy")
    target = folder / "stacks"
    command = [spy, "record", "--pid", str(rival.pids[0]), "--format", "raw", "--output", str(target)]
    command += ["--rate", str(_SAMPLES), "--duration", f"{seconds:.0f}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    if done.returncode:
        raise SystemExit(done.stderr.strip())
    return target.read_text(encoding="utf-8").splitlines()


def count_functions(stacks: Iterable[str]) -> Counter[tuple[str, str]]:
    """Return how often the loop's thread was seen in each function, which is named by its file and its name."""
    found: Counter[tuple[str, str]] = Counter()
    for line in stacks:
        stack, _, count = line.rpartition(" ")
        frames = [match for match in map(_FRAME.fullmatch, stack.split(";")) if match]
        if any(frame["name"].endswith(_LOOP) for frame in frames):
            leaf = frames[-1]
            found[leaf["file"], leaf["name"]] += int(count)
    return found


def print_shares(title: str, found: Counter[tuple[str, str]], *, top: int) -> None:
    """Print the share of each file, and of the functions that take most."""
    files: Counter[str] = Counter()
    for (file, _), count in found.items():
        files[file] += count
    print(f"\n{title}: {found.total()} samples")
    for file, count in files.most_common(top):
        print(f"{100 * count / found.total():6.1f} %  {file}")
    print()
    for (file, name), count in found.most_common(top):
        print(f"{100 * count / found.total():6.1f} %  {name} ({file})")


def main() -> None:
    """Look, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each kind of answer")
    parser.add_argument("--top", type=int, default=16, help="lines of each table")
    arguments = parser.parse_args()
    machine = describe_machine()
    print(format_machine(machine))
    with tempfile.TemporaryDirectory(prefix="llcuda-bench-") as name:
        folder = Path(name)
        load = compile_load(folder)
        with running(["llcuda"], Workplace(folder, folder / "environments", 512, 1), notes=[]) as rivals:
            rival = rivals["llcuda"]
            for kind, stream in (("streams of 16 tokens", True), ("whole answers of 16 tokens", False)):
                body, length = build_body(stream=stream, tokens=16), arguments.seconds + 2 * _MARGIN
                asking = Load(load, *rival.addresses, body=body, key=rival.key, c=_CONNECTIONS, t=length, d=_DRAIN)
                try:
                    stacks = record(rival, folder=folder, seconds=arguments.seconds)
                    figures = asking.read()
                finally:
                    asking.stop()
                title = f"{kind}, {figures['finished'] / figures['seconds']:,.0f} a second"
                print_shares(title, count_functions(stacks), top=arguments.top)


if __name__ == "__main__":
    main()
