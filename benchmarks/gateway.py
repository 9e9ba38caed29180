"""What stands between costs: `llcuda serve` side by side with nginx, aiohttp, LiteLLM and two routers in Rust.

Each has a stub of llama-server behind it (tests/standins/stub_engine.py), and what asks is benchmarks/load.c, which
takes about 8 us of CPU for a request. All run at once and take turns, direct and rival and direct again, so that a busy
machine troubles all of them alike; a figure is the median of the rounds. CPU is the user and system time of the
processes in between, from /proc. The number in brackets is the ratio to llcuda.

    python benchmarks/gateway.py [--only PART...] [--rivals NAME...] [--rounds 5] [--seconds 1.5]
                                 [--earlier FOLDER] [--json FILE]

The parts: ``latency`` at one connection, of whole answers and of streams, and what is added to the stub's own, in us;
``throughput`` at 32 connections; ``tokens`` of long streams, and how late they come; ``memory`` at 1,000 open streams;
``cancels``, from a client's leaving until its slot is free; ``overload`` at ten times the capacity
(``--overload-seconds``); and ``replicas``, eight of them, against their sum. nginx comes from Debian (nginx-light),
aiohttp from pip. LiteLLM, vllm-router and sglang-router are installed into virtual environments of their own, kept in
``--environments``; if that cannot be done, the report says so. All run with one worker or thread. The two routers do
not take Unix sockets; their stub listens on TCP. llama-server closes a connection after its hundredth answer, and so
does the stub: every p99 has such a request in it.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway_load import compile_load
from gateway_parts import PARTS, Run
from gateway_rivals import RIVALS, Workplace, running
from machine import describe_machine, format_machine

if TYPE_CHECKING:
    from collections.abc import Mapping

_OPEN_FILES = 16384


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the parts that were asked for, and return everything that was found."""
    notes: list[str] = []
    parts: dict[str, Any] = {}
    machine = describe_machine()
    with tempfile.TemporaryDirectory(prefix="llcuda-bench-") as name:
        folder = Path(name)
        run = Run(compile_load(folder), arguments.rounds, arguments.seconds, arguments.overload_seconds)
        for part in arguments.only or PARTS:
            chosen = PARTS[part]
            wanted = [
                rival for rival in chosen.rivals if not arguments.rivals or rival in {*arguments.rivals, "direct"}
            ]
            place = Workplace(folder, arguments.environments, chosen.slots, chosen.workers, arguments.earlier)
            with running(wanted, place, notes=notes) as rivals:
                parts[part] = chosen.measure(rivals, run)
            print_part(part, parts[part])
    return {"machine": machine, "parts": parts, "notes": notes}


def print_part(name: str, figures: Mapping[str, Mapping[str, float]]) -> None:
    """Print a table with a row for each rival."""
    kinds = list(dict.fromkeys(kind for row in figures.values() for kind in row))
    print(f"\n{name:14}" + "".join(f"{kind:>22}" for kind in kinds))
    ours = figures.get("llcuda", {})
    for rival, row in figures.items():
        print(f"{rival:14}" + "".join(f"{_format(kind, row, ours):>22}" for kind in kinds), flush=True)


def _format(kind: str, row: Mapping[str, float], ours: Mapping[str, float]) -> str:
    if kind not in row:
        return "-"
    value = row[kind]
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"  # noqa: PLR2004 - where a fraction says nothing
    return f"{text} ({value / ours[kind]:.2f}x)" if ours.get(kind) and row is not ours else text


def main() -> None:
    """Measure and print. A signal to end is an end in order: the servers that run are stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES if most == -1 else min(most, _OPEN_FILES), most))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--rivals", nargs="+", choices=list(RIVALS), metavar="NAME", help=", ".join(RIVALS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of one turn")
    parser.add_argument("--overload-seconds", type=float, default=60.0)
    parser.add_argument("--environments", type=Path, default=Path(tempfile.gettempdir()) / "llcuda-bench")
    parser.add_argument("--earlier", type=Path, metavar="FOLDER", help="src of another llcuda, to compare with")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    machine = describe_machine()
    print(format_machine(machine))
    report = measure(arguments)
    for note in report["notes"]:
        print(f"\n{note}")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
