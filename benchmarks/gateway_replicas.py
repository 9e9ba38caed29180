"""Two real llama-servers behind one address, against one that has a core to itself: how much more they answer.

They have the demo model, a thread and four slots each, and take turns: one, pinned to a core and asked directly; two,
each pinned to a core of its own and asked directly, which is what can be had at most; and two behind `llcuda serve`.
What asks (benchmarks/load.c) and the gateway have no other cores than the llama-servers'. The ratios are those to the
one; a figure is the median of the rounds.

    python benchmarks/gateway_replicas.py [--rounds 5] [--seconds 4] [--tokens 120] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway_load import Load, compile_load
from gateway_processes import await_answer, find_port, run_process
from machine import describe_machine, format_machine

if TYPE_CHECKING:
    from collections.abc import Iterator

_SLOTS = 4
_DRAIN = 5.0
_SOURCE = Path(__file__).resolve().parent.parent / "src"


@contextlib.contextmanager
def run_pinned(folder: Path, core: int) -> Iterator[str]:
    """Run a llama-server on one core, and return its address."""
    from llcuda.models import resolve_model  # noqa: PLC0415 - from the source
    from llcuda.native import binaries_dir, child_environment  # noqa: PLC0415

    port, program = find_port(), binaries_dir() / "llama-server"
    command = [str(program), "-m", str(resolve_model("demo").path), "--port", str(port)]
    # As the gateway's own: what it says costs a hundredth of its time.
    command += ["--threads", "1", "--parallel", str(_SLOTS), "--log-verbosity", "4", "--metrics", "--no-ui"]
    with run_process(command, folder=folder, name=f"core{core}", **child_environment(program)) as server:
        os.sched_setaffinity(server.pid, {core})
        await_answer(server, f"127.0.0.1:{port}")
        yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def run_gateway(folder: Path) -> Iterator[str]:
    """Run two llama-servers behind a gateway, and return its address."""
    port = find_port()
    command = [sys.executable, "-m", "llcuda", "serve", "-m", "demo", "--device", "cpu", "--port", str(port)]
    command += ["--workers", "2", "--slots", str(_SLOTS)]
    with run_process(command, folder=folder, name="llcuda", PYTHONPATH=str(_SOURCE)) as gateway:
        await_answer(gateway, f"127.0.0.1:{port}")
        yield f"127.0.0.1:{port}"


def build_chat(*, stream: bool, tokens: int) -> str:
    """Return a chat that is answered with exactly so many tokens."""
    messages = [{"role": "user", "content": "Tell me a story."}]
    length = {"max_tokens": tokens, "ignore_eos": True, "temperature": 0}
    return json.dumps({"model": "demo", "messages": messages, "stream": stream, **length})


def measure_rate(load: Path, addresses: list[str], body: str, *, clients: int, seconds: float) -> float:
    """Return the answers a second of all addresses together, each asked by so many clients."""
    loads = [Load(load, address, body=body, c=clients, t=seconds, d=_DRAIN) for address in addresses]
    rates = []
    for figures in [one.read() for one in loads]:
        if figures["errors"] or set(figures["statuses"]) != {"200"}:
            raise SystemExit(f"not everything was answered: {figures}")
        rates.append(figures["finished"] / figures["seconds"])
    return sum(rates)


def measure(arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Return a row for each round and kind of answer: answers a second, of one, of two, and behind the gateway."""
    load, rows = compile_load(folder), []
    first, second = sorted(os.sched_getaffinity(0))[:2]
    with run_pinned(folder, first) as one, run_pinned(folder, second) as other, run_gateway(folder) as gateway:
        for _ in range(arguments.rounds):
            for kind in ("stream", "whole"):
                body = build_chat(stream=kind == "stream", tokens=arguments.tokens)
                alone, pair, ours = (
                    measure_rate(load, addresses, body, clients=clients, seconds=arguments.seconds)
                    for addresses, clients in (([one], _SLOTS), ([one, other], _SLOTS), ([gateway], 2 * _SLOTS))
                )
                rows.append({"kind": kind, "one": alone, "two": pair / alone, "llcuda": ours / alone})
                print("  ".join(f"{name} {_format(value)}" for name, value in rows[-1].items()), flush=True)
    return rows


def _format(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of one turn")
    parser.add_argument("--tokens", type=int, default=120, help="of an answer")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    arguments = parser.parse_args()
    sys.path.insert(0, str(_SOURCE))
    machine = describe_machine()
    print(format_machine(machine))
    with tempfile.TemporaryDirectory(prefix="llcuda-bench-") as name:
        rows = measure(arguments, Path(name))
    for kind in ("stream", "whole"):
        mine = [row for row in rows if row["kind"] == kind]
        medians = {name: statistics.median(row[name] for row in mine) for name in ("one", "two", "llcuda")}
        one, two, ours = medians.values()
        print(f"median, {kind}:  one {one:.3g}/s  two {two:.2f}x  llcuda {ours:.2f}x")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
