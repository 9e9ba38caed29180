"""A stand-in for nvidia-smi: what it prints and how it fails is said by environment variables.

FAKE_SMI_FOLDER has what is printed: query.csv, header.txt and list.txt. FAKE_SMI_FAULT=hang waits for an hour, with a
child that holds the streams open. FAKE_SMI_SAYS is printed in place of any answer, and FAKE_SMI_STATUS is the exit
status. FAKE_SMI_LOG is a file that gets a line for each run, and the child's pid.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

_FILES = {"--query-gpu": "query.csv", "-L": "list.txt", "": "header.txt"}


def install(program: Path) -> None:
    """Make ``program`` an executable that behaves like this."""
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {__file__} "$@"\n', encoding="utf-8")
    program.chmod(0o755)


def main(arguments: list[str]) -> int:
    """Behave as the environment says."""
    _log(" ".join(arguments))
    if os.environ.get("FAKE_SMI_FAULT") == "hang":
        child = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(3600)"])
        _log(f"child {child.pid}")
        time.sleep(3600)
    text = os.environ.get("FAKE_SMI_SAYS") or _answer(arguments)
    sys.stdout.write(text)
    return int(os.environ.get("FAKE_SMI_STATUS", "0"))


def _answer(arguments: list[str]) -> str:
    asked = arguments[0].partition("=")[0] if arguments else ""
    path = Path(os.environ["FAKE_SMI_FOLDER"]) / _FILES[asked]
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _log(line: str) -> None:
    if "FAKE_SMI_LOG" in os.environ:
        with Path(os.environ["FAKE_SMI_LOG"]).open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
