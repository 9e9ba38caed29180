"""Write docs/fields.md, which fields the gateway takes, from its own tables: ``python -m tools.field_page``."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from llcuda.gateway.api.field_checks import IGNORED
from llcuda.gateway.api.field_sampling import SAMPLING
from llcuda.gateway.api.field_tables import FIELDS, REFUSED
from llcuda.gateway.http.routes import ROUTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from llcuda.gateway.api.field_checks import Field

__all__ = ["PAGE", "write_page"]

PAGE = Path(__file__).parents[1] / "docs" / "fields.md"
_WIDTH = 130
_HEAD = """\
# The fields of each API

What a request may say, made by `python -m tools.field_page` from the tables that the gateway itself uses.
`null` is the same as leaving a field out. A field that is not here is left out and named in `X-Llcuda-Ignored`.
A field that has one value and a reason cannot be honoured: any other value is a 400 with that reason.
"""


def write_page() -> str:
    """Return the page."""
    sampling = _write_table("How a text is generated", SAMPLING)
    return "\n".join([_HEAD, *sampling, *_write_endpoints(), *_write_refused()])


def _write_endpoints() -> Iterator[str]:
    paths: dict[int, list[str]] = defaultdict(list)
    for route in ROUTES.values():
        if route.endpoint in FIELDS:
            paths[id(FIELDS[route.endpoint])].append(route.path)
    for fields in FIELDS.values():
        if found := paths.pop(id(fields), None):
            yield from _write_table(" · ".join(found), fields)


def _write_table(title: str, fields: Mapping[str, Field]) -> Iterator[str]:
    shared = {name for name, field in fields.items() if fields is not SAMPLING and SAMPLING.get(name) is field}
    ignored = [f"`{name}`" for name, field in fields.items() if field is IGNORED]
    yield f"## {title}\n"
    own = dict(fields)
    if len(shared) > len(SAMPLING) // 2:
        without = ", ".join(f"`{name}`" for name in sorted(SAMPLING.keys() - fields.keys()))
        but = f" but for {without}" if without else ""
        yield fill(f"The fields of [how a text is generated](#how-a-text-is-generated){but}, and:", _WIDTH) + "\n"
        own = {name: field for name, field in fields.items() if name not in shared}
    yield "| field | takes |\n|---|---|"
    for name, field in sorted(own.items()):
        if field is not IGNORED:
            yield f"| `{name}`{', needed' if field.is_required else ''} | {field.wanted} |"
    without = f"Taken, and without an effect: {', '.join(sorted(ignored))}."
    yield f"\n{fill(without, _WIDTH, break_on_hyphens=False)}\n" if ignored else ""


def _write_refused() -> Iterator[str]:
    yield "## What is refused everywhere\n\n| field | because |\n|---|---|"
    yield from (f"| `{name}` | {reason} |" for name, reason in REFUSED.items())
    yield ""


if __name__ == "__main__":
    PAGE.write_text(write_page(), encoding="utf-8")
