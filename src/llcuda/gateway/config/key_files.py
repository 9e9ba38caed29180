"""The files that keys are kept in: nobody else may read them, and no message repeats what they hold."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from llcuda.errors import UsageError
from llcuda.gateway.config.configuration import MAX_KEY_LENGTH, KeyConfig

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MASK", "check_key", "check_private", "parse_keys", "read_key_file", "read_private"]

MASK = "********"
"""What stands for a key that is not shown."""
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_MAX_FILE_BYTES = 1 << 20


def read_key_file(path: Path) -> tuple[KeyConfig, ...]:
    """Return the keys of a file with one a line; raises UsageError if it cannot be used."""
    keys = parse_keys(read_private(path), place=str(path))
    if not keys:
        raise UsageError(f"{path} has no key", hint="Write one a line, as KEY or NAME:KEY.")
    return keys


def parse_keys(text: str, *, place: str) -> tuple[KeyConfig, ...]:
    """Return the keys of ``text``: a line is ``KEY`` or ``NAME:KEY``; empty ones and those with ``#`` are left out.

    A key without a name is called after its line, ``key3``. Raises UsageError for one that HTTP cannot carry.
    """
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), start=1))
    return tuple(_parse_line(line, number, place) for number, line in lines if line and not line.startswith("#"))


def _parse_line(line: str, number: int, place: str) -> KeyConfig:
    place = f"{place}, line {number}"
    name, colon, key = line.partition(":")
    if not colon:
        return KeyConfig(f"key{number}", check_key(line, place=place))
    if not name.strip():
        raise UsageError(f"{place}: the name is empty", hint="Write KEY or NAME:KEY.")
    return KeyConfig(name.strip(), check_key(key.strip(), place=place))


def check_key(key: str, *, place: str) -> str:
    """Return the key; raises UsageError, which does not repeat it, for one that cannot be used."""
    if key == MASK:
        raise UsageError(f"{place}: the key is masked", hint="Put the key in its place, or name its key_file.")
    if not key or not key.isascii() or not key.isprintable() or set(key) & set(' ,"') or len(key) > MAX_KEY_LENGTH:
        what = f"printable ASCII without spaces, commas and quotes, at most {MAX_KEY_LENGTH} characters"
        raise UsageError(f"{place}: a key is {what}", hint="`openssl rand -hex 24` makes one.")
    return key


def read_private(path: Path) -> str:
    """Return what the file holds; raises UsageError if it cannot be read, or if others can read it."""
    try:
        with path.open("rb") as file:
            check_private(path, os.fstat(file.fileno()).st_mode)
            return file.read(_MAX_FILE_BYTES).decode()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="Name a file with the keys.") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not a text", hint="Write one key a line, as KEY or NAME:KEY.") from None


def check_private(path: Path, mode: int) -> None:
    """Raise UsageError if the ``mode`` lets others than the owner have the file."""
    if mode & _OTHERS:
        raise UsageError(f"{path} holds keys, and others can read it", hint=f"chmod 600 {path}")
