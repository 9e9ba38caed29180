"""How connections come in: as many as there are descriptors for, and who has a key finds a place."""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
from typing import TYPE_CHECKING, Any

import pytest

from llcuda.gateway.http.connection import Connection
from llcuda.gateway.http.listener import Listener, allow_connections
from tests.process.gateway.http.test_connection import GET, Client, Echo, post
from tests.processes import until
from tests.scenarios.strangers import KINDS, run_strangers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Broken(socket.socket):
    """Has no descriptor left for a connection."""

    tries = 0

    def accept(self) -> Any:
        Broken.tries += 1
        raise OSError(errno.EMFILE, "Too many open files")


def with_listener(
    scenario: Callable[[Echo, int], Awaitable[None]], *, most: int, kind: type[socket.socket] = socket.socket
) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        echo = Echo()
        bound = kind()
        bound.bind(("127.0.0.1", 0))
        bound.setblocking(False)
        listener = Listener([bound], echo, connect=lambda: Connection(echo, loop), tls=None, max_connections=most)
        listener.start()
        try:
            await scenario(echo, bound.getsockname()[1])
        finally:
            listener.close()
            for connection in tuple(echo.connections):
                connection.abort()
            await until(lambda: not echo.connections)

    asyncio.run(run())


async def connect(port: int) -> Client:
    return Client(*await asyncio.open_connection("127.0.0.1", port))


def count(caplog: pytest.LogCaptureFixture, words: str) -> int:
    return sum(words in record.getMessage() for record in caplog.records)


def test_who_comes_last_has_a_place_and_who_waits_longest_goes(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(echo: Echo, port: int) -> None:
        clients = [await connect(port) for _ in range(3)]
        await until(lambda: len(echo.connections) == 3)
        for _ in range(5):
            clients.append(await connect(port))
            clients[-1].send(GET)
            assert (await clients[-1].echoed())["path"] == "/echo"
            assert len(echo.connections) <= 3
        assert await clients[0].rest() == b""
        for client in clients:
            client.writer.close()

    with caplog.at_level(logging.WARNING):
        with_listener(scenario, most=3)
    assert count(caplog, "have shown no key, are closed") == 1


def test_who_has_a_key_and_is_answered_stays_and_the_next_wait(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(echo: Echo, port: int) -> None:
        echo.knows_everybody = True
        busy, other = await connect(port), await connect(port)
        for client in (busy, other):
            client.send(post(b"", "Connection: close", path="/wait"))
        await until(lambda: len(echo.begun) == 2)
        late = await connect(port)
        late.send(GET)
        await until(lambda: count(caplog, "all are in use"))
        assert len(echo.connections) == 2
        echo.go_on.set()
        for client, path in ((busy, "/wait"), (other, "/wait"), (late, "/echo")):
            assert (await client.echoed())["path"] == path
            client.writer.close()

    with caplog.at_level(logging.WARNING):
        with_listener(scenario, most=2)
    assert count(caplog, "too many connections") == 1


def test_without_descriptors_it_tries_again_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(_echo: Echo, port: int) -> None:
        client = await connect(port)
        await until(lambda: Broken.tries > 2)
        client.writer.close()

    with caplog.at_level(logging.WARNING):
        with_listener(scenario, most=10, kind=Broken)
    assert count(caplog, "Too many open files") == 1


@pytest.mark.parametrize(("hard", "allowed"), [(9000, 4096), (1024, 384)])
def test_descriptors_are_asked_for_and_what_there_is_counts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, hard: int, allowed: int
) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: given.append(limits))
    assert allow_connections(4096) == allowed
    assert given == [(min(hard, 2 * 4096 + 256), hard)]
    assert count(caplog, "ulimit -Hn") == (allowed < 4096)


@pytest.mark.parametrize("kinds", [["handshakes"], [*(KINDS.keys() - {"handshakes"})]], ids=["tls", "plain"])
def test_strangers_hold_little_and_keep_nobody_out(kinds: list[str]) -> None:
    # A client has so long as 200 connections take to be pushed out for its handshake and its key: 20 s at this pace.
    limits = {"max_connections": 200}
    for figures in run_strangers(*kinds, count=300, seconds=0.2, limits=limits, descriptors=700, returns_per_second=30):
        assert figures.wrong == [], figures.kind
        assert len(figures.busy_ms) >= 10
        assert figures.rss_highest - figures.rss_before < 50, figures.kind
        assert figures.log_bytes < 10_000, figures.kind
        assert figures.descriptors_highest < 600, figures.kind
        assert figures.descriptors_after <= figures.descriptors_before + 2, figures.kind
