"""`llcuda infer`: one prompt, one answer."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llcuda.cli.arguments import (
    add_command,
    add_draft_flags,
    add_model_flags,
    add_prompt,
    add_sampling_flags,
    add_system_flag,
    loaded_engine,
    read_prompt,
    sampling_options,
)
from llcuda.cli.output import keep_saying, print_json, print_note, print_pieces
from llcuda.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from llcuda.cli.arguments import Commands
    from llcuda.engine import InferenceEngine

__all__ = ["add_parser"]

_EXAMPLES = """examples:

  llcuda infer -m demo "What is 2+2?"
  llcuda infer -m demo --json -n 20 "What is the capital of France?"
  git diff | llcuda infer -m qwen3-8b-Q4_K_M -s "Write a commit message."
"""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, run, name="infer", summary="answer one prompt", epilog=_EXAMPLES)
    add_prompt(parser)
    add_system_flag(parser)
    parser.add_argument("--schema", metavar="FILE", help="a JSON schema that the answer has to hold to")
    parser.add_argument("--json", action="store_true", help="print the answer with its figures as JSON")
    add_model_flags(parser)
    add_draft_flags(parser)
    add_sampling_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Load the model and print its answer as it is generated."""
    options = _infer_options(arguments)
    prompt = read_prompt(arguments.prompt)
    with loaded_engine(arguments) as engine:
        if not engine.can_chat and not arguments.raw:
            print_note(f"{arguments.model} has no chat template: it continues the text. --raw says that this is meant.")
        with keep_saying("the model is at work") as stop_saying:
            if arguments.json:
                print_json(_describe_answer(engine, prompt, options))
            elif arguments.schema:
                print(engine.infer(prompt, **options).text)
            else:
                print_pieces(engine.infer_stream(prompt, **options), on_piece=stop_saying)
    return 0


def _infer_options(arguments: argparse.Namespace) -> dict[str, Any]:
    options = sampling_options(arguments)
    if arguments.raw:
        options["raw"] = True
    if arguments.system is not None:
        options["system"] = arguments.system
    if arguments.schema:
        options["schema"] = _read_schema(Path(arguments.schema))
    return options


def _read_schema(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"--schema {path}: {error}", hint="Give a file that holds one JSON schema.") from error


def _describe_answer(engine: InferenceEngine, prompt: str, options: dict[str, Any]) -> dict[str, Any]:
    answer = dataclasses.asdict(engine.infer(prompt, **options))
    device, draft = engine.device_report, engine.draft_report
    return answer | {"device": device.to_dict() if device else None, "draft": draft.to_dict() if draft else None}
