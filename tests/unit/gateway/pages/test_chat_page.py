"""The pace at which the chat page is sent."""

from __future__ import annotations

import asyncio
import gzip
import random
from typing import TYPE_CHECKING, Any

import pytest

from llcuda.gateway.pages.chat_page import ChatPage
from tools.binaries.web_ui import pack_files

if TYPE_CHECKING:
    from pathlib import Path

PIECE = 64 << 10
FILES = {"large": random.Random(1).randbytes(5 * PIECE), "small": b"small"}


class SlowExchange:
    """An exchange whose client takes nothing after the first piece, until it is told to."""

    def __init__(self, path: str, *, paused: bool) -> None:
        self.path = path
        self.headers = {"accept-encoding": "gzip"}
        self.pieces: list[bytes] = []
        self.finished = False
        self.source: Any = None
        self._paused = paused
        self.length = 0

    def follow(self, source: Any) -> None:
        self.source = source
        if source is not None and self._paused:
            source.pause_reading()

    def start_file(self, _content_type: str, *, length: int, headers: Any) -> None:
        self.length = length
        assert headers

    def respond(self, _status: int, body: bytes, **_more: Any) -> None:
        self.write(body, is_last=True)

    def write(self, data: bytes, *, is_last: bool) -> None:
        self.pieces.append(data)
        self.finished = is_last
        self.source.pause_reading()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    pack_files(FILES, tmp_path / "web_ui.zip")
    return tmp_path / "web_ui.zip"


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("name", "pieces"), [("large", 6), ("small", 1)])
@pytest.mark.parametrize("paused", [False, True])
def test_no_more_is_written_than_the_client_takes(archive: Path, name: str, pieces: int, paused: bool) -> None:  # noqa: FBT001, PLR0917
    exchange: Any = SlowExchange(f"/chat/{name}", paused=paused)

    async def send() -> None:
        page = ChatPage(archive)
        await page._find_file(name)
        task = asyncio.ensure_future(page.table["chat_page"](exchange))
        for taken in range(not paused, pieces + 1):
            await settle()
            assert len(exchange.pieces) == taken
            if exchange.source is not None:
                exchange.source.resume_reading()
        await task

    asyncio.run(send())
    data = b"".join(exchange.pieces)
    assert gzip.decompress(data) == FILES[name]
    assert (exchange.finished, exchange.source) == (True, None)
    assert name == "small" or exchange.length == len(data)
