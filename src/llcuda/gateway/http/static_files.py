"""The files of the page at ``/``: a fixed table of addresses; nothing of a request becomes part of a path."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from llcuda.gateway.http.routes import PAGES

if TYPE_CHECKING:
    from llcuda.gateway.http.exchange import Exchange

__all__ = ["Page", "read_pages", "serve_page"]

_FOLDER = Path(__file__).parents[1] / "pages"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# The page has no script and no style within its text, and nothing that it shows may become one.
_POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; "
    "require-trusted-types-for 'script'"
)
_HEADERS = (
    f"Content-Security-Policy: {_POLICY}",
    "Referrer-Policy: no-referrer",
    "Cross-Origin-Opener-Policy: same-origin",
    "Cross-Origin-Resource-Policy: same-origin",
    # Kept, and asked for anew each time: after an update no browser shows the files of two versions.
    "Cache-Control: no-cache",
)
_OK, _NOT_MODIFIED = 200, 304


@dataclass(frozen=True, slots=True)
class Page:
    """One file as it is sent."""

    body: bytes
    content_type: str
    tag: str
    """Its ETag, with the quotes."""


@cache
def read_pages() -> dict[str, Page]:
    """Return the files by their addresses; they are read once."""
    return {address: _read(_FOLDER / name) for address, name in PAGES.items()}


async def serve_page(exchange: Exchange) -> None:
    """Answer with the file of the address, or that the browser has it."""
    page = read_pages()[exchange.path]
    status = _NOT_MODIFIED if _has(exchange.headers.get("if-none-match", ""), page.tag) else _OK
    headers = (*_HEADERS, f"ETag: {page.tag}")
    exchange.respond(status, page.body, content_type=page.content_type, headers=headers)


def _read(path: Path) -> Page:
    body = path.read_bytes()
    return Page(body, _TYPES[path.suffix], f'"{sha256(body).hexdigest()[:32]}"')


def _has(known: str, tag: str) -> bool:
    # A proxy that compresses makes a weak tag of a strong one.
    return any(one.strip().removeprefix("W/") == tag for one in known.split(","))
