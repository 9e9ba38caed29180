"""`llcuda embed`: text to vectors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from llcuda.cli.arguments import add_command, add_model_flags, loaded_engine, read_prompt
from llcuda.cli.output import show

if TYPE_CHECKING:
    import argparse

    from llcuda.cli.arguments import Commands

__all__ = ["add_parser"]

_POOLINGS = ("mean", "cls", "last")


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, run, name="embed", summary="turn text into vectors")
    parser.add_argument("texts", nargs="*", metavar="text", help="the texts (default: what stdin holds)")
    parser.add_argument("-p", "--prompt", action="append", default=[], help="one more text; - reads it from stdin too")
    parser.add_argument(
        "--pooling", choices=_POOLINGS, help="how the tokens' vectors become one (default: the model's own, else mean)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document with texts and vectors")
    add_model_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print one vector a line, as a JSON array of floats, in the order of the prompts."""
    prompts = [read_prompt(prompt) for prompt in arguments.prompt + arguments.texts or [None]]
    with loaded_engine(arguments, embeddings=True, pooling=arguments.pooling) as engine:
        vectors = engine.embed(prompts)
    pairs = [{"text": text, "embedding": vector} for text, vector in zip(prompts, vectors, strict=True)]
    show(pairs, "\n".join(map(json.dumps, vectors)), as_json=arguments.json)
    return 0
