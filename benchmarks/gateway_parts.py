"""The parts of the benchmark of the gateway: each is given what runs, and returns its figures by name and kind."""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gateway_load import Load, ask, build_body, build_request, connect, read_cpu, read_rss

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from gateway_rivals import Rival

__all__ = ["PARTS", "Part", "Run"]

Figures = dict[str, dict[str, float]]

_STREAMS = 1000
_CANCELS = 500
_CANCEL_PATIENCE = 3.0
_QUEUED = 256  # what `llcuda serve` lets wait unless it is told otherwise
_DRAIN = 5.0
_WARM_UP = 0.3
_OTHERS_SECONDS = 10.0  # of overload: what has no bound only gets slower and larger
_BASELINE = "direct"


@dataclass(frozen=True)
class Run:
    """How long a part takes, and with what."""

    load: Path
    rounds: int
    seconds: float
    """Of one turn."""
    overload_seconds: float


@dataclass(frozen=True)
class Part:
    """One thing that is measured."""

    measure: Callable[[Mapping[str, Rival], Run], Figures]
    rivals: Sequence[str]
    slots: int = 512
    workers: int = 1


def _load(rival: Rival, run: Run, body: str, **options: float) -> dict[str, Any]:
    figures = Load(run.load, *rival.addresses, body=body, key=rival.key, **options).read()
    refused = sum(count for status, count in figures["statuses"].items() if status != "200")
    return {**figures, "errors": figures["errors"] + refused}


def _collect(samples: dict[str, list[dict[str, float]]]) -> Figures:
    """Return the medians of the rounds, without the CPU time of what is not there."""
    medians = {
        name: {kind: statistics.median(one[kind] for one in rounds) for kind in rounds[0]}
        for name, rounds in samples.items()
    }
    for kind in [kind for kind in medians.get(_BASELINE, {}) if kind.startswith("CPU")]:
        del medians[_BASELINE][kind]
    return medians


def measure_latency(rivals: Mapping[str, Rival], run: Run) -> Figures:
    """Measure microseconds at one connection; what is added is over the turns at the stub before and after."""
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in rivals}
    for _ in range(run.rounds):
        before = _time(rivals[_BASELINE], run)
        samples[_BASELINE].append(before)
        for name in [name for name in rivals if name != _BASELINE]:
            taken, after = _time(rivals[name], run), _time(rivals[_BASELINE], run)
            added = {f"{kind} added": taken[kind] - (before[kind] + after[kind]) / 2 for kind in taken}
            samples[name].append({**taken, **added})
            before = after
    return _collect(samples)


def _time(rival: Rival, run: Run) -> dict[str, float]:
    # After a second of rest, the first tenths of a second take up to three times as long.
    _load(rival, run, build_body(tokens=16), t=_WARM_UP, d=_DRAIN)
    plain = _load(rival, run, build_body(tokens=16), t=run.seconds / 2, d=_DRAIN)["latency_us"]
    streamed = _load(rival, run, build_body(stream=True, tokens=16), t=run.seconds / 2, d=_DRAIN)["latency_us"]
    return {
        "p50": plain["p50"], "p99": plain["p99"], "stream p50": streamed["p50"], "stream p99": streamed["p99"],
    }  # fmt: skip


def measure_throughput(rivals: Mapping[str, Rival], run: Run) -> Figures:
    """Measure requests a second at 32 connections, streamed and not, and CPU microseconds of each."""
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in rivals}
    for _ in range(run.rounds):
        for name, rival in rivals.items():
            _load(rival, run, build_body(tokens=16), c=32, t=_WARM_UP, d=_DRAIN)
            plain = _use(rival, run, build_body(tokens=16), c=32, t=run.seconds, d=_DRAIN)
            streamed = _use(rival, run, build_body(stream=True, tokens=16), c=32, t=run.seconds, d=_DRAIN)
            samples[name].append(
                {
                    "requests/s": plain["finished"] / plain["seconds"],
                    "CPU us": plain["cpu_us"] / max(1, plain["finished"]),
                    "streams/s": streamed["finished"] / streamed["seconds"],
                    "CPU us, streamed": streamed["cpu_us"] / max(1, streamed["finished"]),
                    "errors": plain["errors"] + streamed["errors"],
                }
            )
    return _collect(samples)


def _use(rival: Rival, run: Run, body: str, **options: float) -> dict[str, Any]:
    """Return the load's figures, with the CPU time that stood between."""
    before = read_cpu(rival.pids)
    figures = _load(rival, run, body, **options)
    return {**figures, "cpu_us": (read_cpu(rival.pids) - before) * 1e6}


def measure_tokens(rivals: Mapping[str, Rival], run: Run) -> Figures:
    """Measure what passing a token on takes: alone, in 20 streams of one in 10 ms, and in a burst.

    The delay is from the stub's writing it until the load generator has it.
    """
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in rivals}
    alone = build_body(stream=True, tokens=int(100 * run.seconds), token_ms=10, stamp=True)
    burst = build_body(stream=True, tokens=2000)
    for _ in range(run.rounds):
        for name, rival in rivals.items():
            _load(rival, run, build_body(stream=True, tokens=16), t=_WARM_UP, d=_DRAIN)
            slow = _use(rival, run, alone, c=20, n=20, t=20)
            fast = _use(rival, run, burst, c=1, n=5, t=20)
            samples[name].append(
                {
                    "delay p50 us": slow["delay_us"]["p50"],
                    "delay p99 us": slow["delay_us"]["p99"],
                    "CPU us, alone": slow["cpu_us"] / slow["events"],
                    "CPU us, burst": fast["cpu_us"] / fast["events"],
                    "errors": slow["errors"] + fast["errors"],
                }
            )
    return _collect(samples)


def measure_memory(rivals: Mapping[str, Rival], run: Run) -> Figures:
    """Measure MiB before, and at 1,000 open streams of a token a second."""
    body = build_body(stream=True, tokens=600, token_ms=1000)
    return {name: _measure_memory(rival, run, body) for name, rival in rivals.items()}


def _measure_memory(rival: Rival, run: Run, body: str) -> dict[str, float]:
    before = read_rss(rival.pids)
    load = Load(run.load, *rival.addresses, body=body, key=rival.key, c=_STREAMS, n=_STREAMS, r=_STREAMS / 2)
    try:
        deadline = time.monotonic() + 20
        while _read_stub(rival)["busy"] < _STREAMS and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(2)
        busy, after = _read_stub(rival)["busy"], read_rss(rival.pids)
    finally:
        load.stop()
    _await_idle(rival)
    return {
        "streams": busy,
        "MiB before": before,
        "MiB": after,
        "KiB per stream": (after - before) * 1024 / max(1, busy),
    }


def _read_stub(rival: Rival) -> dict[str, Any]:
    """Return the stub's own figures, added up over the stubs."""
    reports = [json.loads(ask(stub, "/stub")[1]) for stub in rival.stubs]
    return {**reports[0], **{kind: sum(report[kind] for report in reports) for kind in ("busy", "waiting", "requests")}}


def _await_idle(rival: Rival) -> None:
    deadline = time.monotonic() + _CANCEL_PATIENCE
    while _read_stub(rival)["busy"] and time.monotonic() < deadline:
        time.sleep(0.05)


def measure_cancels(rivals: Mapping[str, Rival], run: Run) -> Figures:
    """Measure milliseconds from a client's leaving, after its first token, until its slot is free, 500 times."""
    del run
    return {name: _measure_cancels(rival) for name, rival in rivals.items()}


def _measure_cancels(rival: Rival) -> dict[str, float]:
    left = {number: _leave(rival, number) for number in range(_CANCELS)}
    _await_idle(rival)
    freed = {tag: at for tag, at in _read_stub(rival)["cancelled"] if tag in left}
    waits = sorted((freed[number] - at) * 1e3 for number, at in left.items() if number in freed)
    if not waits:
        return {"freed": 0}
    return {"freed": len(waits), "p50 ms": _at(waits, 0.5), "p99 ms": _at(waits, 0.99), "max ms": waits[-1]}


def _leave(rival: Rival, number: int) -> float:
    """Ask for a stream, leave at its first token, and return when, on the clock that the stub has too."""
    body = build_body(stream=True, tokens=200, token_ms=50, tag=number)
    request = build_request("/v1/chat/completions", body=body, key=rival.key)
    with connect(rival.addresses[0]) as connection:
        connection.sendall(request)
        seen = b""
        while b" token" not in seen:
            data = connection.recv(65536)
            if not data:
                break
            seen += data
        return time.monotonic()


def _at(values: list[float], share: float) -> float:
    return values[round(share * (len(values) - 1))]


def measure_overload(rivals: Mapping[str, Rival], run: Run) -> Figures:
    """Offer ten times what four slots can do, and measure those who are let in, those who are not, and the memory.

    The bound of a first token is the time that the slots take for a full queue.
    """
    return {name: _measure_overload(rival, run) for name, rival in rivals.items()}


def _measure_overload(rival: Rival, run: Run) -> dict[str, float]:
    body = build_body(stream=True, tokens=8, first_ms=5, token_ms=5)
    slots = 4
    alone = _load(rival, run, body, c=slots, n=200)
    able = alone["complete"] / alone["seconds"]
    seconds = run.overload_seconds if rival.name == "llcuda" else min(run.overload_seconds, _OTHERS_SECONDS)
    before = highest = read_rss(rival.pids)
    load = Load(run.load, *rival.addresses, body=body, key=rival.key, c=4000, r=10 * able, t=seconds)
    while load.process.poll() is None:
        time.sleep(0.2)
        highest = max(highest, read_rss(rival.pids))
    figures = load.read()
    _await_idle(rival)
    refused = figures["statuses"].get("429", 0) + figures["statuses"].get("503", 0)
    return {
        "capacity/s": able,
        "offered/s": 10 * able,
        "first token p99 ms": figures["first_us"].get("p99", 0) / 1e3,
        "of its bound": figures["first_us"].get("p99", 0) / 1e6 / ((_QUEUED + slots) / able),
        "refused": refused,
        "refusal p99 ms": figures["refused_us"].get("p99", 0) / 1e3,
        "goodput share": figures["complete"] / figures["seconds"] / able,
        "MiB more": highest - before,
        "errors": figures["errors"] + figures["unsent"],
    }


def measure_replicas(rivals: Mapping[str, Rival], run: Run) -> Figures:
    """Measure tokens a second of eight stubs at 32 streams, against all of them asked directly."""
    body = build_body(stream=True, tokens=50, token_ms=10)
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in rivals}
    for _ in range(run.rounds):
        for name, rival in rivals.items():
            figures = _use(rival, run, body, c=32, t=max(2.5, run.seconds))
            samples[name].append({"tokens/s": figures["events"] / figures["seconds"], "errors": figures["errors"]})
    figures = _collect(samples)
    best = figures[_BASELINE]["tokens/s"]
    return {name: {**kinds, "share": kinds["tokens/s"] / best} for name, kinds in figures.items()}


_PROXIES = ("llcuda", "earlier", "nginx", "aiohttp", "litellm", "vllm-router", "sglang-router")
PARTS = {
    "latency": Part(measure_latency, ("direct", "direct-tcp", *_PROXIES)),
    "throughput": Part(measure_throughput, ("direct", *_PROXIES)),
    "tokens": Part(measure_tokens, ("direct", *_PROXIES)),
    "memory": Part(measure_memory, _PROXIES, workers=2),
    "cancels": Part(measure_cancels, ("direct", *_PROXIES)),
    "overload": Part(measure_overload, ("llcuda", "nginx", "aiohttp"), slots=4),
    "replicas": Part(measure_replicas, ("direct", "llcuda", "nginx"), slots=4, workers=8),
}
