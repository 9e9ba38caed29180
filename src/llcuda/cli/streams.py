"""The standard streams as a program may find them: closed, or in an encoding that has few characters."""

from __future__ import annotations

import io
import os
import sys

__all__ = ["repair_streams", "silence_output"]

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


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
