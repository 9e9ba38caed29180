"""What the commands print: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llcuda.errors import LlcudaError

__all__ = ["format_bytes", "format_table", "print_error", "print_json", "print_note", "print_table"]


def print_error(error: LlcudaError) -> None:
    """Print the last words of llama-server if there are any, then what was wrong and what to try."""
    for line in getattr(error, "log_tail", ()):
        print(f"  | {line}", file=sys.stderr)
    print(f"llcuda: {error}", file=sys.stderr)
    if error.hint:
        print(f"  try: {error.hint}", file=sys.stderr)


def print_note(text: str) -> None:
    """Print progress or advice, which is not part of the result."""
    print(text, file=sys.stderr, flush=True)


def print_json(value: object) -> None:
    """Print one JSON document."""
    # An escape of another kind, which other encodings would be given, is no JSON.
    has_all = sys.stdout.encoding.lower().replace("-", "") in {"utf8", "utf16", "utf32"}
    print(json.dumps(value, ensure_ascii=not has_all, indent=2))


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under their header, each column as wide as its widest cell."""
    print(format_table(header, rows))


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return the table as text."""
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
