"""`llcuda chat`: a conversation that remembers."""

from __future__ import annotations

import json
import sys
from base64 import b64encode
from difflib import get_close_matches
from mimetypes import guess_type
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llcuda.cli.arguments import (
    add_command,
    add_draft_flags,
    add_model_flags,
    add_sampling_flags,
    add_system_flag,
    loaded_engine,
    parse_value,
    sampling_options,
)
from llcuda.cli.output import keep_saying, print_error, print_note, print_pieces
from llcuda.errors import RequestError, UsageError
from llcuda.options import check_options

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from llcuda.cli.arguments import Commands
    from llcuda.client import InferResult
    from llcuda.engine import InferenceEngine

__all__ = ["add_parser"]

_QUOTES = '"""'
_HELP = """Ctrl-C stops an answer, Ctrl-D ends. Three quotes, \"\"\", begin and end a text of several lines; with
llcuda[chat] installed, so does Alt-Enter for each line.

  /help                 this
  /reset                forget the conversation
  /system TEXT          begin anew with this system prompt
  /set NAME VALUE       change how tokens are sampled: temperature, max_tokens, top_p, seed ...
  /set                  show what was set; with a NAME alone, leave that to the model again
  /image FILE           send an image with the next message, to a model that has a projector
  /stats                how many tokens the last answer took, and how fast it came
  /save FILE            write the conversation as JSON, as the chat endpoint takes it
  /bye or /exit         end"""
_FULL = "/reset forgets the conversation; --ctx-size N at the start makes more room"


def add_parser(commands: Commands) -> None:
    """Add the command."""
    epilog = "Within it:\n\n" + _HELP.partition("\n\n")[2]
    parser = add_command(commands, run, name="chat", summary="talk with a model", epilog=epilog)
    summary = "an image that goes with the first message; may be repeated"
    parser.add_argument("--image", action="append", default=[], metavar="FILE", help=summary)
    add_system_flag(parser)
    add_model_flags(parser)
    add_draft_flags(parser)
    add_sampling_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Read the user's turns until the end of input and print the model's."""
    options = sampling_options(arguments)
    images = [_read_image(file) for file in arguments.image]
    with loaded_engine(arguments) as engine:
        engine.require_template()
        chat = _Chat(engine, options)
        chat.begin(arguments.system)
        for image in images:
            chat.attach(image)
        if sys.stdin.isatty():
            print_note(f"{arguments.model} is loaded. /help shows what you can do, /bye ends.")
        for text in _read_turns():
            if text in {"/exit", "/bye"}:
                break
            if text:
                chat.take(text)
    return 0


class _Chat:
    """A conversation: what was said, and how tokens are sampled."""

    def __init__(self, engine: InferenceEngine, options: dict[str, Any]) -> None:
        self.engine, self.options = engine, options
        self.stats = "Nothing was answered yet."

    def begin(self, system: str | None) -> str:
        """Forget what was said, and begin with this system prompt."""
        self.system, self.images = system, list[Any]()
        self.history: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        return "The conversation is forgotten."

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
            if "exceed_context_size" in getattr(error, "body", ""):
                error.hint = _FULL
            print_error(error, is_about_flags=name != "/set")

    def attach(self, image: dict[str, Any]) -> None:
        """Send the image with the next message. Raises UsageError if the model takes none."""
        if not self.engine.client.props().get("modalities", {}).get("vision"):
            raise UsageError(
                "this model takes no images", hint="Take one that has a projector, or name it: --mmproj FILE."
            )
        self.images.append(image)

    def _commands(self) -> dict[str, Callable[[str], str]]:
        return {
            "/help": lambda _: _HELP,
            "/image": self._attach_file,
            "/reset": lambda _: self.begin(self.system),
            "/save": self._save,
            "/set": self._set,
            "/stats": lambda _: self.stats,
            "/system": self.begin,
        }

    def _attach_file(self, file: str) -> str:
        self.attach(_read_image(file))
        return f"{file} goes with the next message"

    def _set(self, text: str) -> str:
        name, _, value = text.partition(" ")
        changed = {**self.options, name: parse_value(value.strip()) if value else None}
        if name:
            check_options(changed, chat=True)
            self.options = {name: value for name, value in changed.items() if value is not None}
        return ", ".join(f"{name} is {value}" for name, value in self.options.items()) or "Nothing is set."

    def _save(self, file: str) -> str:
        try:
            Path(file).write_text(json.dumps(self.history, ensure_ascii=False, indent=2), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{file!r} cannot be written: {error.strerror}", hint="/save chat.json") from None
        return f"{len(self.history)} messages are in {file}"

    def _answer(self, text: str) -> None:
        images, self.images = self.images, []
        content = [*images, {"type": "text", "text": text}] if images else text
        self.history.append({"role": "user", "content": content})
        stream = None
        try:
            with keep_saying("the model is at work") as stop_saying:
                stream = self.engine.stream_chat(self.history, **self.options)
                print_pieces(stream, on_piece=stop_saying)
            self._note(stream.result)
        except KeyboardInterrupt:
            print_note(" [stopped]")
        except RequestError:
            self.history.pop()
            raise
        self.history.append({"role": "assistant", "content": stream.text if stream else ""})

    def _note(self, result: InferResult) -> None:
        read, generated = result.prompt_tokens, result.tokens_generated
        speed = f"{result.tokens_per_sec:.0f} tokens/s, {result.latency_ms:.0f} ms"
        self.stats = f"{read} tokens read, {generated} generated, {speed}"
        if result.finish_reason == "length" and generated == self.options.get("max_tokens"):
            print_note(f"(cut off after {generated} tokens; /set max_tokens N allows more)")
        elif result.finish_reason == "length":
            print_note(f"(cut off: the context of {read + generated} tokens is full; {_FULL})")


def _read_image(file: str) -> dict[str, Any]:
    """Return the image as a part of a message. Raises UsageError for a file that cannot be read."""
    try:
        data = b64encode(Path(file).expanduser().read_bytes()).decode()
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", error)
        raise UsageError(f"the image {file!r} cannot be read: {reason}", hint="Give the path of an image.") from None
    return {"type": "image_url", "image_url": {"url": f"data:{guess_type(file)[0] or 'image/png'};base64,{data}"}}


def _read_turns() -> Iterator[str]:
    ask = _choose_input()
    while (text := _read_turn(ask)) is not None:
        text = text.strip()
        if text.startswith(_QUOTES):
            text = _read_rest(text[len(_QUOTES) :], ask)
        yield text


def _choose_input() -> Callable[[str], str]:
    """Return what reads a line: an editor at a terminal, readline if that is not installed, and else just a pipe."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return lambda _: input()
    try:
        from prompt_toolkit import PromptSession  # noqa: PLC0415 - the extra
        from prompt_toolkit.key_binding import KeyBindings  # noqa: PLC0415
    except ModuleNotFoundError:
        import readline  # noqa: F401, PLC0415 - gives input() a history and editing keys

        return input
    keys = KeyBindings()
    keys.add("escape", "enter")(lambda event: event.current_buffer.insert_text("\n"))
    return PromptSession[str](key_bindings=keys).prompt


def _read_rest(text: str, ask: Callable[[str], str]) -> str:
    """Return the text up to the next three quotes, over as many lines as it takes."""
    while _QUOTES not in text:
        line = _read_turn(ask, ". ")
        if line is None:
            break
        text += "\n" + line
    return text.partition(_QUOTES)[0].strip()


def _read_turn(ask: Callable[[str], str], prompt: str = "> ") -> str | None:
    try:
        return ask(prompt)
    except EOFError:
        return None
    except KeyboardInterrupt:
        print_note("\n(Ctrl-D ends the conversation)")
        return ""
