"""What the commands print: results on stdout, everything else on stderr."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import threading
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from llcuda.client import TextStream
    from llcuda.errors import LlcudaError

__all__ = [
    "colour",
    "format_bytes",
    "format_table",
    "keep_saying",
    "print_error",
    "print_json",
    "print_note",
    "print_pieces",
    "repair_streams",
    "show",
    "silence_output",
    "speak_flags",
]

_RED, _GREEN = 31, 32
_SILENCE = 8.0  # seconds after which people ask themselves whether it still runs
_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))
_NAMES = (
    "chat_template ctx_size device draft draft_keep fallback gpu_layers host max_tokens min_p port raw require_gpu "
    "seed system temperature threads top_k top_p url verbose"
)
_FLAGS = {**{name: f"--{name.replace('_', '-')}" for name in _NAMES.split()}, "stop_sequences": "--stop"}
_COMMANDS = {
    "`engine.check_server()` tells.": "Start one with `llcuda serve -m demo`, or name another with --url.",
    "Leave the port out to get a free one, choose another, or attach to what runs there with "
    "InferenceEngine(server_url=…).": "Take a free one with --port 0, or choose another.",
    "; write _ for - in their names": "",
    "api_key=…, or engine.api_key": "--api-key-file FILE, or LLAMA_API_KEY",
    "api_key=…": "--api-key-file FILE",
}
"""Hints that speak of Python's objects, and what stands for them at the command line."""
_ARGUMENT = re.compile(
    r"""(?<![\w.\-/`'"=])(?P<name>[a-z]+(?:_[a-z]+)*)\b(?:=(?P<value>"[^"]*"|'[^']*'|True|-?\d+(?:\.\d+)?|…))?"""
)


def print_error(error: LlcudaError, *, is_about_flags: bool = True) -> None:
    """Print the last words of llama-server if there are any, then what was wrong and what to try."""
    for line in getattr(error, "log_tail", ()):
        print(f"  | {line}", file=sys.stderr)
    message = speak_flags(str(error)) if is_about_flags else str(error)
    print(f"{colour('llcuda:', _RED)} {message}", file=sys.stderr)
    if error.hint:
        print(f"  {colour('try:', _GREEN)} {speak_flags(error.hint)}", file=sys.stderr)


def colour(text: str, code: int) -> str:
    """Return the text in a colour if stderr is a terminal that shows colours, and NO_COLOR does not forbid it."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not sys.stderr.isatty()
    return text if plain else f"\x1b[{code}m{text}\x1b[0m"


def speak_flags(text: str) -> str:
    """Return a message that speaks of Python's arguments in the words of the command line."""
    for words, command in _COMMANDS.items():
        text = text.replace(words, command)
    return _ARGUMENT.sub(_to_flag, text)


def _to_flag(found: re.Match[str]) -> str:
    name, value = found["name"], (found["value"] or "").strip("\"'")
    if not value:
        is_key = found.string[: found.start()].endswith(": ")  # of a file: its name and a colon stand before
        return name if is_key or "_" not in name else _FLAGS.get(name, name)
    if name in _FLAGS:
        return _FLAGS[name] if value == "True" else f"{_FLAGS[name]} {value}"
    is_option = "_" in name or name == "timeout"
    return f"--server-option {name.replace('_', '-')}={value}" if is_option else found[0]


def print_note(text: str) -> None:
    """Print progress or advice, which is not part of the result."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def keep_saying(text: str, *, holds: Callable[[], bool] = lambda: True) -> Iterator[Callable[[], None]]:
    """Say again and again what goes on, if it ``holds``, until the block ends or what it yields is called."""
    done, started = threading.Event(), time.monotonic()

    def speak() -> None:
        while not done.wait(_SILENCE):
            if holds():
                print_note(f"llcuda: {text}, since {time.monotonic() - started:.0f} s")

    threading.Thread(target=speak, daemon=True).start()
    try:
        yield done.set
    finally:
        done.set()


def print_pieces(stream: TextStream | Generator[str, None, None], *, on_piece: Callable[[], None]) -> None:
    """Print a text as it comes, and close what it comes from."""
    with closing(stream):
        for piece in stream:
            on_piece()
            sys.stdout.write(piece)
            sys.stdout.flush()
    sys.stdout.write("\n")


def print_json(value: object) -> None:
    """Print one JSON document."""
    # An escape of another kind, which other encodings would be given, is no JSON.
    has_all = sys.stdout.encoding.lower().replace("-", "") in {"utf8", "utf16", "utf32"}
    print(json.dumps(value, ensure_ascii=not has_all, indent=2))


def show(value: object, text: str, *, as_json: bool) -> None:
    """Print what was found, for programs or for people."""
    if as_json:
        print_json(value)
    else:
        print(text)


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return rows under their header, each column as wide as its widest cell."""
    table = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table)
    return "\n".join(lines)


def format_bytes(count: int | None) -> str:
    """Return a size for people: ``3.1 MB``, in powers of 1000 as model hubs show them."""
    if count is None:
        return "-"
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:  # noqa: PLR2004 - the step between the units
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def repair_streams() -> None:
    """Let nothing else take the place of a closed stream, and write as an escape what an encoding lacks."""
    while (fd := os.open(os.devnull, os.O_RDWR)) < len(_STREAMS):
        os.set_inheritable(fd, True)
    os.close(fd)
    for number, (name, mode) in enumerate(_STREAMS):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def silence_output() -> None:
    """Keep the interpreter from failing once more when it flushes at its end what cannot be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
