"""`llcuda chat`: a conversation that remembers."""

from __future__ import annotations

import json
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llcuda.cli.options import (
    add_command,
    add_draft_flags,
    add_model_flags,
    add_sampling_flags,
    add_system_flag,
    loaded_engine,
    parse_value,
    sampling_options,
)
from llcuda.cli.output import print_error, print_note
from llcuda.errors import RequestError, UsageError
from llcuda.options import check_options

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from llcuda.cli.options import Commands
    from llcuda.client import InferResult
    from llcuda.engine import InferenceEngine

__all__ = ["add_parser"]

_QUOTES = '"""'
_HELP = """Ctrl-C stops an answer, Ctrl-D ends. Three quotes, \"\"\", begin and end a text of several lines.

  /help                 this
  /reset                forget the conversation
  /system TEXT          begin anew with this system prompt
  /set NAME VALUE       change how tokens are sampled: temperature, max_tokens, top_p, seed ...
  /stats                how many tokens the last answer took, and how fast it came
  /save FILE            write the conversation as JSON, as the chat endpoint takes it
  /bye or /exit         end"""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    epilog = "Within it:\n\n" + _HELP.partition("\n\n")[2]
    parser = add_command(commands, run, name="chat", summary="talk with a model", epilog=epilog)
    add_system_flag(parser)
    add_model_flags(parser)
    add_draft_flags(parser)
    add_sampling_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Read the user's turns until the end of input and print the model's."""
    options = sampling_options(arguments)
    with loaded_engine(arguments) as engine:
        engine.require_template()
        if sys.stdin.isatty():
            print_note(f"{arguments.model} is loaded. /help shows what you can do, /bye ends.")
        chat = _Chat(engine, _new_history(arguments.system), options)
        for text in _read_turns():
            if text in {"/exit", "/bye"}:
                break
            if text:
                chat.take(text)
    return 0


class _Chat:
    """A conversation: what was said, and how tokens are sampled."""

    def __init__(self, engine: InferenceEngine, history: list[dict[str, Any]], options: dict[str, Any]) -> None:
        self.engine, self.history, self.options = engine, history, options
        self.stats = "Nothing was answered yet."

    def take(self, text: str) -> None:
        """Do what a command says, or answer; the conversation goes on without a turn that failed."""
        name, _, value = text.partition(" ")
        try:
            if (command := self._commands().get(name)) is not None:
                print_note(command(value.strip()))
            elif name.startswith("/") and "/" not in name[1:]:
                near = get_close_matches(name, [*self._commands(), "/bye", "/exit"], n=1) or ["/help"]
                print_note(f"{name} is no command; did you mean {near[0]}?")
            else:
                self._answer(text)
        except (RequestError, UsageError) as error:
            print_error(error)

    def _commands(self) -> dict[str, Callable[[str], str]]:
        return {
            "/help": lambda _: _HELP,
            "/reset": lambda _: self._begin(self.history[0]["content"] if self._has_system() else None),
            "/save": self._save,
            "/set": self._set,
            "/stats": lambda _: self.stats,
            "/system": self._begin,
        }

    def _has_system(self) -> bool:
        return bool(self.history) and self.history[0]["role"] == "system"

    def _begin(self, system: str | None) -> str:
        self.history = _new_history(system)
        return "The conversation is forgotten."

    def _set(self, text: str) -> str:
        name, _, value = text.partition(" ")
        changed = {**self.options, name: parse_value(value.strip())}
        check_options(changed, chat=True)
        self.options = changed
        return f"{name} is {changed[name]}"

    def _save(self, file: str) -> str:
        try:
            Path(file).write_text(json.dumps(self.history, ensure_ascii=False, indent=2), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{file!r} cannot be written: {error.strerror}", hint="/save chat.json") from None
        return f"{len(self.history)} messages are in {file}"

    def _answer(self, text: str) -> None:
        self.history.append({"role": "user", "content": text})
        try:
            answer, result = _print_answer(self.engine, self.history, self.options)
        except RequestError:
            self.history.pop()
            raise
        self.history.append({"role": "assistant", "content": answer})
        if result is not None:
            self.stats = (
                f"{result.prompt_tokens} tokens read, {result.tokens_generated} generated, "
                f"{result.tokens_per_sec:.0f} tokens/s, {result.latency_ms:.0f} ms"
            )
            if result.finish_reason == "length":
                print_note("(cut off: at max_tokens, or the context is full; /set max_tokens N or /reset goes on)")


def _new_history(system: str | None) -> list[dict[str, Any]]:
    return [{"role": "system", "content": system}] if system else []


def _read_turns() -> Iterator[str]:
    interactive = sys.stdin.isatty()
    if interactive:
        import readline  # noqa: F401, PLC0415 - gives input() a history, editing keys and whole pasted texts

    while (text := _read_turn(interactive=interactive)) is not None:
        text = text.strip()
        if text.startswith(_QUOTES):
            text = _read_rest(text[len(_QUOTES) :], interactive=interactive)
        yield text


def _read_rest(text: str, *, interactive: bool) -> str:
    """Return the text up to the next three quotes, over as many lines as it takes."""
    while _QUOTES not in text:
        line = _read_turn(interactive=interactive, prompt=". ")
        if line is None:
            break
        text += "\n" + line.rstrip("\n")
    return text.partition(_QUOTES)[0].strip()


def _read_turn(*, interactive: bool, prompt: str = "> ") -> str | None:
    try:
        return input(prompt) if interactive else sys.stdin.readline() or None
    except EOFError:
        return None
    except KeyboardInterrupt:
        print_note("\n(Ctrl-D ends the conversation)")
        return ""


def _print_answer(
    engine: InferenceEngine, history: list[dict[str, Any]], options: dict[str, Any]
) -> tuple[str, InferResult | None]:
    pieces: list[str] = []
    with engine.stream_chat(history, **options) as stream:
        try:
            for piece in stream:
                pieces.append(piece)
                sys.stdout.write(piece)
                sys.stdout.flush()
        except KeyboardInterrupt:
            print_note(" [stopped]")
            return "".join(pieces), None
        sys.stdout.write("\n")
        return "".join(pieces), stream.result
