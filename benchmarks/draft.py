"""What a draft brings: tokens per second of the demo model with its draft model, with n-grams, and with neither.

Every way has a llama-server of its own, all run at once and take turns, so that a busy machine troubles all of them
alike; the order of the turns changes from round to round. A turn is the same prompts, greedily, one at a time.
``tokens/s`` is the median of the rounds, by llama-server's own clock; a ratio is taken within its round, against
``none``, and the median and the extremes of the rounds are printed. ``acceptance`` is over all rounds. In ``fresh``
turns every prompt is new, in ``again`` turns the texts have been written before, which is what n-grams live on.

    python benchmarks/draft.py [--rounds 15] [--model demo] [--draft demo-draft] [--device cpu] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from machine import describe_machine, format_machine

_ROOT = Path(__file__).resolve().parent.parent
if (_ROOT / "src").is_dir():
    sys.path[:0] = [str(_ROOT / "src")]

import llcuda  # noqa: E402 - from the source beside this file

_AGAIN = ("Count to fifty.", "Tell me about llcuda.", "Say the alphabet.", "Count to twenty.")
_FRESH = 8
_MAX_TOKENS = 200


@dataclass
class Way:
    """One way of drafting, and what was measured of it in each round."""

    options: dict[str, Any]
    speeds: dict[str, list[float]] = field(default_factory=dict)
    drafted: int = 0
    accepted: int = 0


def list_ways(draft: str) -> dict[str, Way]:
    """Return what is compared, by name."""
    return {
        "none": Way({}),
        draft: Way({"draft": draft}),
        f"{draft}, 8 at a time": Way({"draft": draft, "spec_draft_n_max": 8}),
        "ngram-mod": Way({"draft": "ngram-mod"}),
        "ngram-simple": Way({"draft": "ngram-simple"}),
    }


def list_prompts(kind: str, turn: int) -> list[str]:
    """Return the prompts of one turn."""
    if kind == "again":
        return list(_AGAIN)
    numbers = range(turn * _FRESH, (turn + 1) * _FRESH)
    return [f"What is {number % 100}+{number * 37 % 100}?" for number in numbers]


def take_turn(engine: llcuda.InferenceEngine, way: Way, *, prompts: list[str]) -> float:
    """Return the tokens per second of all answers together."""
    tokens = seconds = 0.0
    for prompt in prompts:
        result = engine.infer(prompt, temperature=0, max_tokens=_MAX_TOKENS)
        tokens += result.tokens_per_sec * result.generation_ms / 1e3
        seconds += result.generation_ms / 1e3
        way.drafted += result.draft_tokens
        way.accepted += result.draft_tokens_accepted
    return tokens / seconds


def measure(model: str, draft: str, *, device: str, rounds: int) -> dict[str, Way]:
    """Return the ways with what was measured; round 0 warms up and is dropped."""
    ways = list_ways(draft)
    with contextlib.ExitStack() as stack:
        engines = {name: stack.enter_context(llcuda.InferenceEngine()) for name in ways}
        for name, engine in engines.items():
            engine.load_model(model, device=device, silent=True, **ways[name].options)
        for turn in range(rounds + 1):
            for kind in ("fresh", "again"):
                for name in list(ways)[turn % len(ways) :] + list(ways)[: turn % len(ways)]:
                    speed = take_turn(engines[name], ways[name], prompts=list_prompts(kind, turn))
                    ways[name].speeds.setdefault(kind, []).append(speed)
    for way in ways.values():
        way.speeds = {kind: speeds[1:] for kind, speeds in way.speeds.items()}
    return ways


def summarize(ways: dict[str, Way]) -> dict[str, dict[str, Any]]:
    """Return medians, and ratios to ``none`` within each round."""
    return {
        name: {
            "acceptance": way.accepted / way.drafted if way.drafted else None,
            **{kind: _summarize_kind(speeds, ways["none"].speeds[kind]) for kind, speeds in way.speeds.items()},
        }
        for name, way in ways.items()
    }


def _summarize_kind(speeds: list[float], plain: list[float]) -> dict[str, float]:
    ratios = [speed / base for speed, base in zip(speeds, plain, strict=True)]
    return {
        "tokens_per_sec": statistics.median(speeds),
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
    }


def _print_report(report: dict[str, Any]) -> None:
    print(format_machine(report["machine"]))
    print(f"{report['model']} on {report['device']}, {report['rounds']} rounds\n")
    print(f"{'draft':30}{'acceptance':>12}{'fresh tokens/s':>16}{'ratio':>22}{'again tokens/s':>16}{'ratio':>22}")
    for name, figures in report["ways"].items():
        share = "-" if figures["acceptance"] is None else f"{figures['acceptance']:.1%}"
        print(f"{name:30}{share:>12}", *(_format(figures[kind]) for kind in ("fresh", "again")), sep="")


def _format(figures: dict[str, float]) -> str:
    ratio = f"{figures['ratio']:.2f}x ({figures['least']:.2f}-{figures['most']:.2f})"
    return f"{figures['tokens_per_sec']:16,.0f}{ratio:>22}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--draft", default="demo-draft")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    report = {
        "machine": describe_machine(),
        "model": arguments.model,
        "device": arguments.device,
        "rounds": arguments.rounds,
        "ways": summarize(measure(arguments.model, arguments.draft, device=arguments.device, rounds=arguments.rounds)),
    }
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        _print_report(report)


if __name__ == "__main__":
    main()
