"""`llcuda chat`: a conversation that remembers."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from llcuda.cli.options import (
    add_command,
    add_draft_flags,
    add_model_flags,
    add_sampling_flags,
    add_system_flag,
    loaded_engine,
    sampling_options,
)
from llcuda.cli.output import print_error, print_note
from llcuda.errors import RequestError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from llcuda.cli.options import Commands
    from llcuda.engine import InferenceEngine

__all__ = ["add_parser"]

_HELP = "/reset forgets the conversation, /exit or Ctrl-D ends, Ctrl-C stops an answer."


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, run, name="chat", summary="talk with a model", epilog=_HELP)
    add_system_flag(parser)
    add_model_flags(parser)
    add_draft_flags(parser)
    add_sampling_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Read the user's turns until the end of input and print the model's."""
    options = sampling_options(arguments)
    with loaded_engine(arguments) as engine:
        if sys.stdin.isatty():
            print_note(_HELP)
        history = _new_history(arguments.system)
        for text in _read_turns():
            if text == "/exit":
                break
            if text == "/reset":
                history = _new_history(arguments.system)
                print_note("The conversation is forgotten.")
            elif text:
                _take_turn(engine, history, text, options=options)
    return 0


def _new_history(system: str | None) -> list[dict[str, Any]]:
    return [{"role": "system", "content": system}] if system else []


def _read_turns() -> Iterator[str]:
    interactive = sys.stdin.isatty()
    if interactive:
        import readline  # noqa: F401, PLC0415 - gives input() a history and editing keys

    while (text := _read_turn(interactive=interactive)) is not None:
        yield text.strip()


def _read_turn(*, interactive: bool) -> str | None:
    try:
        return input("> ") if interactive else sys.stdin.readline() or None
    except EOFError:
        return None
    except KeyboardInterrupt:
        print_note("\n(Ctrl-D ends the conversation)")
        return ""


def _take_turn(
    engine: InferenceEngine, history: list[dict[str, Any]], text: str, *, options: dict[str, Any]
) -> None:
    history.append({"role": "user", "content": text})
    try:
        answer = _print_answer(engine, history, options)
    except RequestError as error:
        # The conversation goes on without the turn that failed.
        history.pop()
        print_error(error)
    else:
        history.append({"role": "assistant", "content": answer})


def _print_answer(engine: InferenceEngine, history: list[dict[str, Any]], options: dict[str, Any]) -> str:
    pieces: list[str] = []
    with engine.stream_chat(history, **options) as stream:
        try:
            for piece in stream:
                pieces.append(piece)
                sys.stdout.write(piece)
                sys.stdout.flush()
        except KeyboardInterrupt:
            print_note(" [stopped]")
    sys.stdout.write("\n")
    return "".join(pieces)
