"""Connections to a worker that does what a dying one does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from llcuda.fleet.dispatch.upstream import PlainAnswer, Upstream, UpstreamFailedError
from llcuda.transport.address import unix_address
from tests.processes import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CLOSING = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


class Server:
    """Answers each request with the next of its ``answers``; an empty one closes the connection, None says nothing."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = list(answers)
        self.connections = 0
        self.requests = 0
        self.asked = asyncio.Event()
        self.left = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while await self._read(reader):
            self.requests += 1
            self.asked.set()
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if answer == b"":
                break
            writer.write(answer or b"")
        self.left.set()
        writer.close()

    @staticmethod
    async def _read(reader: asyncio.StreamReader) -> bool:
        try:
            await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionResetError):
            return False
        return True


def with_server(tmp_path: Path, server: Callable[[], Server], scenario: Callable[..., Awaitable[None]]) -> None:
    async def run() -> None:
        path, made = str(tmp_path / "w.sock"), server()
        listening = await asyncio.start_unix_server(made.serve, path)
        lives: list[None] = []
        upstream = Upstream(unix_address(path), api_key="key", on_life=lambda: lives.append(None))
        try:
            await scenario(made, upstream)
        finally:
            upstream.close()
            listening.close()
            await asyncio.sleep(0.05)

    asyncio.run(asyncio.wait_for(run(), PATIENCE))


async def ask(upstream: Upstream) -> PlainAnswer:
    taken = PlainAnswer()
    await upstream.exchange("GET", "/x", taken)
    return taken


def test_a_connection_is_used_again_until_the_server_says_that_it_closes(tmp_path: Path) -> None:
    async def scenario(server: Server, upstream: Upstream) -> None:
        for _ in range(4):
            taken = await ask(upstream)
            assert (taken.status, taken.body) == (200, b"ok")
        assert (server.requests, server.connections) == (4, 2)

    with_server(tmp_path, lambda: Server(ANSWER, ANSWER, CLOSING, ANSWER), scenario)


def test_a_connection_that_the_server_closed_while_idle_is_replaced(tmp_path: Path) -> None:
    async def scenario(server: Server, upstream: Upstream) -> None:
        await ask(upstream)
        assert (await ask(upstream)).body == b"ok"
        assert (server.requests, server.connections) == (3, 2)

    with_server(tmp_path, lambda: Server(ANSWER, b"", ANSWER), scenario)


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Len", b"nonsense\r\n\r\n", ANSWER[:-1],
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"],
)  # fmt: skip
def test_an_answer_that_breaks_off_is_a_failure_of_the_worker(tmp_path: Path, answer: bytes) -> None:
    async def scenario(_server: Server, upstream: Upstream) -> None:
        with pytest.raises(UpstreamFailedError):
            await asyncio.wait_for(ask(upstream), PATIENCE)
        assert not upstream._busy

    def server() -> Server:
        return Server(answer, b"")

    async def closing(made: Server, upstream: Upstream) -> None:
        if answer and answer != b"nonsense\r\n\r\n":
            asyncio.get_running_loop().call_later(0.05, upstream.close)
        await scenario(made, upstream)

    with_server(tmp_path, server, closing)


def test_nobody_listening_is_a_failure_of_the_worker(tmp_path: Path) -> None:
    async def run() -> None:
        upstream = Upstream(unix_address(str(tmp_path / "nobody.sock")), api_key=None, on_life=lambda: None)
        with pytest.raises(UpstreamFailedError, match="cannot connect"):
            await ask(upstream)

    asyncio.run(run())


def test_a_connection_that_is_lost_before_the_request_is_sent_is_a_failure_and_not_waited_for(tmp_path: Path) -> None:
    async def scenario(_server: Server, upstream: Upstream) -> None:
        link = await upstream._connect(was_sent=False)
        link.transport.abort()
        await asyncio.sleep(0.01)
        running = upstream._run(link, b"GET / HTTP/1.1\r\n\r\n", PlainAnswer())
        with pytest.raises(UpstreamFailedError, match="closed"):
            await asyncio.wait_for(running, PATIENCE)

    with_server(tmp_path, lambda: Server(ANSWER), scenario)


def test_who_is_cancelled_cuts_the_connection(tmp_path: Path) -> None:
    async def scenario(server: Server, upstream: Upstream) -> None:
        task = asyncio.ensure_future(ask(upstream))
        await server.asked.wait()
        task.cancel()
        await server.left.wait()
        assert not upstream._busy

    with_server(tmp_path, lambda: Server(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"), scenario)


def test_closing_fails_what_is_under_way(tmp_path: Path) -> None:
    async def scenario(server: Server, upstream: Upstream) -> None:
        task = asyncio.ensure_future(ask(upstream))
        await server.asked.wait()
        upstream.close()
        with pytest.raises(UpstreamFailedError):
            await task

    with_server(tmp_path, lambda: Server(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"), scenario)


def test_what_is_under_way_on_a_connection_that_was_used_before_is_not_sent_again_once_all_is_closed(
    tmp_path: Path,
) -> None:
    async def scenario(server: Server, upstream: Upstream) -> None:
        await ask(upstream)
        server.asked.clear()
        task = asyncio.ensure_future(ask(upstream))
        await server.asked.wait()
        upstream.close()
        with pytest.raises(UpstreamFailedError):
            await task
        assert (server.requests, server.connections) == (2, 1)

    with_server(tmp_path, lambda: Server(ANSWER, None, ANSWER), scenario)
