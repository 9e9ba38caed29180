"""The command line: parse, run one command, turn every failure into a message and an exit code."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from typing import TYPE_CHECKING

from llcuda import __version__
from llcuda.cli import chat, doctor, embed, gpu, infer, models, serve
from llcuda.cli.output import print_error
from llcuda.errors import LlcudaError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["main", "run_guarded"]

_COMMANDS = (infer, chat, serve, embed, models, gpu, doctor)
_INTERRUPTED = 130
_BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, an error's own, or 130 after Ctrl-C."""
    arguments = build_parser().parse_args(argv)
    if arguments.verbose:
        logging.basicConfig(level=logging.DEBUG, format="%(name)s: %(message)s")
    return run_guarded(arguments.run, arguments)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every command."""
    parser = argparse.ArgumentParser(
        prog="llcuda", description="Run GGUF models on the llama-server that this package carries."
    )
    parser.add_argument("--version", action="version", version=f"llcuda {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add_parser(commands)
    return parser


def run_guarded(run: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """Call ``run`` and return its exit code; print what went wrong, with the next thing to try."""
    try:
        code = run(arguments)
        sys.stdout.flush()
    except LlcudaError as error:
        print_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader has gone: keep the interpreter from failing once more when it flushes stdout at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except Exception as error:
        if arguments.verbose:
            raise
        print(f"llcuda: unexpected {type(error).__name__}: {error}\n  try: the same with --verbose", file=sys.stderr)
        return LlcudaError.exit_code
    return code
