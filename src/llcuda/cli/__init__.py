"""The command line: parse, run one command, turn every failure into a message and an exit code."""

from __future__ import annotations

import errno
import logging
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from llcuda import __version__
from llcuda.cli import chat, doctor, embed, gpu, infer, models, serve, storage
from llcuda.cli.output import print_error, repair_streams, silence_output
from llcuda.cli.parser import Parser, add_commands
from llcuda.errors import LlcudaError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

__all__ = ["main", "run_guarded"]

_COMMANDS = (infer, chat, serve, embed, models, storage, gpu, doctor)
_EXAMPLES = """examples:

  llcuda infer -m demo "What is 2+2?"          one answer of the model inside the package
  llcuda models list                           models with a name, and what is on this disk
  llcuda chat -m gemma-3-1b-Q4_K_M             a conversation; the model is downloaded once
  llcuda serve -m ./model.gguf                 OpenAI's API and a chat in the browser
  llcuda gpu status                            which GPU is used, and why one is not"""
_INTERRUPTED = 130
_BROKEN_PIPE = 141
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, an error's own, or 130 after Ctrl-C."""
    repair_streams()
    arguments = build_parser().parse_args(argv)
    if arguments.verbose:
        logging.basicConfig(level=logging.DEBUG, format="%(name)s: %(message)s")
    return run_guarded(arguments.run, arguments)


def build_parser() -> Parser:
    """Return the parser of every command."""
    parser = Parser(
        prog="llcuda", description="Run GGUF models on the llama-server that this package carries.", epilog=_EXAMPLES
    )
    parser.add_argument("--version", action="version", version=f"llcuda {__version__}")
    commands = add_commands(parser)
    for command in _COMMANDS:
        command.add_parser(commands)
    return parser


def run_guarded(run: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """Call ``run`` and return its exit code; print what went wrong, with the next thing to try."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = run(arguments)
        sys.stdout.flush()
    except LlcudaError as error:
        with suppress(OSError):  # nobody may be there to read it
            print_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        silence_output()  # the reader has gone
        return _BROKEN_PIPE
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _FULL and error.filename is None:
            silence_output()
            print(f"llcuda: the output cannot be written: {error.strerror}", file=sys.stderr)
            return LlcudaError.exit_code
        if arguments.verbose:
            raise
        print(f"llcuda: unexpected {type(error).__name__}: {error}\n  try: the same with --verbose", file=sys.stderr)
        return LlcudaError.exit_code
    return code
