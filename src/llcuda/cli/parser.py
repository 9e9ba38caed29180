"""How the command line is parsed: help with examples, and suggestions for what is misspelt."""

from __future__ import annotations

import argparse
import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Parser", "add_commands"]

_OTHER_NAMES = {
    "run": ["chat"], "generate": ["infer"], "ps": ["gpu status"], "list": ["models list"], "ls": ["models list"],
    "pull": ["models pull"], "show": ["models inspect"], "rm": ["models rm"], "help": ["--help"],
}  # fmt: skip
"""What other programs call our commands."""
_INVALID_COMMAND = re.compile(r"argument COMMAND: invalid choice: '(.*?)'")


class Parser(argparse.ArgumentParser):
    """A parser that suggests what was meant, and keeps the lines of an epilog's examples."""

    def __init__(self, **options: Any) -> None:
        """Prepare; argparse makes the parsers of commands the same way."""
        super().__init__(**{"formatter_class": _Formatter, **options})

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Return what was given; the parser of the command that was named says what it does not know."""
        arguments, unknown = self.parse_known_args(args, namespace)
        if unknown:
            getattr(arguments, "parser", self).error(f"unrecognized arguments: {' '.join(unknown)}")
        return arguments

    def error(self, message: str) -> NoReturn:
        """End with what was wrong, what was probably meant, and where help is."""
        meant = "".join(f"\n  try: {word}" for word in self._suggest(message))
        self.exit(2, f"llcuda: {_shorten(message)}{meant}\n  help: {self.prog} --help\n")

    def _suggest(self, message: str) -> Iterator[str]:
        if command := _INVALID_COMMAND.match(message):
            near = get_close_matches(command[1], self._list_commands(), n=1)
            yield from (f"{self.prog} {name}" for name in near or _OTHER_NAMES.get(command[1], []))
        for flag in re.findall(r"(?<!\S)--?[\w-]+", message) if message.startswith("unrecognized") else ():
            yield from get_close_matches(flag, self._option_string_actions, n=1)

    def _list_commands(self) -> list[str]:
        return [name for action in self._actions if isinstance(action.choices, dict) for name in action.choices]


class _Formatter(argparse.HelpFormatter):
    """Paragraphs as wide as the terminal, and indented lines as they stand."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(
            part if part.startswith(" ") else super(_Formatter, self)._fill_text(part, width, indent)
            for part in text.split("\n\n")
        )


def add_commands(parser: argparse.ArgumentParser) -> argparse._SubParsersAction[argparse.ArgumentParser]:
    """Let the parser have commands of its own, and show its help if none is named."""

    def show_help(_: argparse.Namespace) -> int:
        parser.print_help()
        return 0

    parser.set_defaults(run=show_help, verbose=False, parser=parser)
    return parser.add_subparsers(title="commands", metavar="COMMAND")


def _shorten(message: str) -> str:
    found = _INVALID_COMMAND.match(message)
    return f"{found[1]!r} is no command" if found else message
