"""The page ``/chat/``: llama.cpp's own web UI.

It asks beside itself, ``/chat/v1/chat/completions`` for one: :data:`llcuda.gateway.http.routes.ALIASES` says what that
stands for, with the keys and limits of everybody. The files hold no data, and need no key.
"""

from __future__ import annotations

import asyncio
from logging import getLogger
from typing import TYPE_CHECKING

from llcuda.errors import BinaryUnusableError
from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.http.routes import CHAT_FOLDER
from llcuda.gateway.pages.chat_files import read_file, read_names

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from llcuda.gateway.http.exchange import Exchange
    from llcuda.gateway.pages.chat_files import PageFile

__all__ = ["ChatPage"]

_INDEX = "index.html"
_OK, _NOT_MODIFIED, _REDIRECT = 200, 304, 308
_PIECE_BYTES = 64 << 10


class _Pace:
    """The pace at which a client takes what it is sent."""

    def __init__(self) -> None:
        self._is_free = asyncio.Event()
        self._is_free.set()
        self.wait = self._is_free.wait

    def pause_reading(self) -> None:
        """Let the file wait."""
        self._is_free.clear()

    def resume_reading(self) -> None:
        """Let it go on."""
        self._is_free.set()


class ChatPage:
    """Answers for the files of the page. Each is read when it is first asked for, and kept."""

    def __init__(self, archive: Path) -> None:
        """Look which files there are; without the archive there is no page, and whoever asks is told so."""
        self._archive = archive
        self._files: dict[str, PageFile] = {}
        self._reading = asyncio.Lock()
        self._names: frozenset[str] | None = None
        if archive.exists():
            try:
                self._names = read_names(archive)
            except BinaryUnusableError as error:
                getLogger("llcuda.gateway").warning("there will be no chat page: %s", error)

    @property
    def table(self) -> dict[str, Callable[[Exchange], Awaitable[None]]]:
        """The endpoints of :mod:`llcuda.gateway.http.routes` that are answered here."""
        return {
            "chat_page": self._answer,
            "chat_folder": self._redirect,
            "chat_tools": self._refuse_tools,
            "chat_streams": self._find_no_stream,
        }

    async def _refuse_tools(self, _exchange: Exchange) -> None:
        # The status by which the page knows a server that runs no tools.
        raise RefusedError(403, "the gateway runs no tools for the page", code="no_tools")

    async def _find_no_stream(self, exchange: Exchange) -> None:
        """Answer which answers can be taken up again after the page was left: none is kept."""
        exchange.respond(_OK, b"[]")

    async def _redirect(self, exchange: Exchange) -> None:
        self._require_page()
        # Relative, for a proxy that has the gateway in a folder of its own.
        lines = ["Location: chat/", "Cache-Control: no-cache"]
        exchange.respond(_REDIRECT, b"", content_type="text/plain", headers=lines)

    async def _answer(self, exchange: Exchange) -> None:
        name = exchange.path.removeprefix(CHAT_FOLDER) or _INDEX
        if name not in self._require_page():
            raise RefusedError(404, f"the chat page has no {name}", code="not_found")
        file = await self._find_file(name)
        if not _takes_gzip(exchange.headers.get("accept-encoding", "")):
            raise RefusedError(406, "the chat page is sent with gzip alone", code="gzip_only")
        if file.etag in exchange.headers.get("if-none-match", "").replace("W/", "").split(", "):
            exchange.respond(_NOT_MODIFIED, file.packed, content_type=file.content_type, headers=file.lines)
        else:
            await _send(exchange, file)

    def _require_page(self) -> frozenset[str]:
        if self._names is not None:
            return self._names
        if self._archive.exists():
            raise _unusable()
        message = "this llcuda was built without npm, and so without the chat page; released wheels have it"
        raise RefusedError(404, message, code="no_chat_page")

    async def _find_file(self, name: str) -> PageFile:
        async with self._reading:
            if name not in self._files:
                try:
                    self._files[name] = await asyncio.to_thread(read_file, self._archive, name)
                except BinaryUnusableError as error:
                    getLogger("llcuda.gateway").warning("the chat page is not whole: %s", error)
                    raise _unusable() from None
            return self._files[name]


async def _send(exchange: Exchange, file: PageFile) -> None:
    """Send a file as its client takes it: those who read nothing, and need no key, must not fill the memory."""
    pace, data = _Pace(), file.packed
    exchange.follow(pace)
    try:
        await pace.wait()
        if len(data) <= _PIECE_BYTES:
            exchange.respond(_OK, data, content_type=file.content_type, headers=file.lines)
            return
        exchange.start_file(file.content_type, length=len(data), headers=file.lines)
        for start in range(0, len(data), _PIECE_BYTES):
            await pace.wait()
            end = start + _PIECE_BYTES
            exchange.write(data[start:end], is_last=end >= len(data))
    finally:
        exchange.follow(None)


def _takes_gzip(accepted: str) -> bool:
    offers = (offer.replace(" ", "").lower().partition(";q=") for offer in accepted.split(","))
    return any(name == "gzip" and (not weight or weight.strip("0.") != "") for name, _, weight in offers)


def _unusable() -> RefusedError:
    return RefusedError(503, "the chat page cannot be read; the gateway's log says why", code="chat_page_unusable")
