"""One connection as clients meet it: real sockets, a service that echoes what it was asked."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

from llcuda.fleet.refusals import RefusedError
from llcuda.gateway import Limits
from llcuda.gateway.http.access import Caller
from llcuda.gateway.http.connection import Connection
from tests.processes import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llcuda.gateway.http.exchange import Exchange

CHUNKED = b"GET /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
GET = b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n"


def post(body: bytes, *headers: str, path: str = "/echo") -> bytes:
    lines = (f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers)
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body


class Echo:
    """Answers each request with what was read of it; what a path does besides is its name."""

    def __init__(self, **limits: Any) -> None:
        self.limits = dataclasses.replace(Limits(), **limits)
        self.slow_readers = 0
        self.draining = self.knows_everybody = False
        self.connections: set[Connection] = set()
        self.holding: dict[Connection, None] = {}
        self.buffer = memoryview(bytearray(64 << 10))
        self.cancelled: list[str] = []
        self.begun: list[str] = []
        self.go_on = asyncio.Event()

    def check_head(self, exchange: Exchange) -> None:
        if exchange.path == "/forbidden":
            raise RefusedError(401, "no")
        exchange.caller = Caller("user") if self.knows_everybody else None

    async def handle(self, exchange: Exchange) -> None:
        self.begun.append(exchange.path)
        try:
            await self._answer(exchange)
        except asyncio.CancelledError:
            self.cancelled.append(exchange.path)
            if exchange.is_late:
                exchange.refuse(RefusedError(504, "late"))

    async def _answer(self, exchange: Exchange) -> None:
        if exchange.path == "/wait":
            await self.go_on.wait()
        if exchange.path == "/stream":
            exchange.start_stream(200, "text/event-stream")
            for number in range(3):
                exchange.write(b"data: %d\n\n" % number, is_last=number == 2)
                await asyncio.sleep(0)
            return
        if exchange.path == "/flood":
            exchange.start_stream(200, "text/event-stream")
            source = Source()
            exchange.follow(source)
            while not source.is_paused:
                exchange.write(b"x" * 10_000)
            await self.go_on.wait()
        told = {"method": exchange.method, "path": exchange.path, "query": exchange.query, "headers": exchange.headers,
                "body": exchange.body.decode("latin-1")}  # fmt: skip
        exchange.respond(200, json.dumps(told).encode())

    def refuse(self, exchange: Exchange, error: RefusedError) -> None:
        exchange.refuse(error)

    def note_slow_reader(self) -> None:
        self.slow_readers += 1


class Source:
    def __init__(self) -> None:
        self.is_paused = False

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False


class Client:
    """A connection that says what it is told to, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> tuple[int, dict[str, str]]:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        return int(lines[0].split()[1]), headers

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        status, headers = await self.head()
        return status, headers, await self.reader.readexactly(int(headers.get("content-length", "0")))

    async def echoed(self) -> Any:
        status, _, body = await self.answer()
        assert status == 200
        return json.loads(body)

    async def rest(self) -> bytes:
        return await self.reader.read()


def with_echo(scenario: Callable[[Echo, Callable[[], Awaitable[Client]]], Awaitable[None]], **limits: Any) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        echo = Echo(**limits)
        server = await loop.create_server(lambda: Connection(echo, loop), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        clients: list[Client] = []

        async def connect() -> Client:
            clients.append(Client(*await asyncio.open_connection("127.0.0.1", port)))
            return clients[-1]

        try:
            await scenario(echo, connect)
        finally:
            for client in clients:
                client.writer.close()
            for connection in tuple(echo.connections):
                connection.abort()
            server.close()
            await server.wait_closed()
            await asyncio.sleep(0.05)

    asyncio.run(asyncio.wait_for(run(), 120))


def test_one_connection_carries_many_requests_and_each_has_an_identity() -> None:
    async def scenario(_echo: Echo, connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        seen = set()
        for number in range(150):
            client.send(post(b"%d" % number, path=f"/echo?n={number}"))
            _, headers, body = await client.answer()
            told = json.loads(body)
            assert (told["body"], told["query"]) == (str(number), f"n={number}")
            assert headers["x-content-type-options"] == "nosniff"
            seen.add(headers["x-request-id"])
        assert len(seen) == 150
        client.send(post(b"", "X-Request-Id: mine-1"))
        assert (await client.answer())[1]["x-request-id"] == "mine-1"

    with_echo(scenario)


def test_requests_may_come_in_one_piece_or_byte_by_byte() -> None:
    async def scenario(echo: Echo, connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        client.send(post(b"first") + GET + post(b"third"))
        assert [(await client.echoed())["body"] for _ in range(3)] == ["first", "", "third"]
        for byte in post(b"slow"):
            client.send(bytes([byte]))
            await client.writer.drain()
            await asyncio.sleep(0)
        assert (await client.echoed())["body"] == "slow"
        assert len(echo.begun) == 4

    with_echo(scenario)


def test_a_chunked_body_is_put_together_and_its_trailers_mean_nothing() -> None:
    async def scenario(_echo: Echo, connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        head = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: authorization\r\n\r\n"
        client.send(head + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nAuthorization: Bearer late\r\n\r\n")
        told = await client.echoed()
        assert told["body"] == "abcde"
        assert "authorization" not in told["headers"]

    with_echo(scenario)


def test_answers_stay_in_order_while_requests_wait_and_what_waits_is_bounded() -> None:
    async def scenario(echo: Echo, connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        client.send(post(b"", path="/wait") + post(b"second"))
        await until(lambda: echo.begun == ["/wait"])
        flood = post(b"x" * 1000) * 20_000
        client.send(flood)
        await asyncio.sleep(0.3)
        (connection,) = echo.connections
        assert len(connection._waiting) < 50
        assert len(connection._unread) + connection._loose_bytes < 1 << 17
        echo.go_on.set()
        assert (await client.echoed())["path"] == "/wait"
        assert (await client.echoed())["body"] == "second"

    with_echo(scenario)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET /echo HTTP/3.0\r\n\r\n", 400),
        (b"GET http://x/echo HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\nauthorization: Bearer b\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\nHost: x\n\n", 400),
        (b"GET /echo HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello", 400),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 0x5\r\n\r\nhello", 400),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx", 415),
        (b"GET /" + b"a" * 2000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET /echo HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
        (b"GET /echo HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /echo HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 400_000, 431),
        (b"GET /" + b"a" * 400_000, 431),
        (post(b"x" * 2000), 413),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"400\r\n" + b"x" * 1024 + b"\r\n"
         b"400\r\n" + b"x" * 1024 + b"\r\n", 413),
        (post(b"secret", path="/forbidden"), 401),
        (b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"0" * 5000 + b"5\r\n\r\nhello", 400),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nhello", 400),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: \xb2\r\n\r\nhello", 400),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551615\r\n\r\nhello", 413),
        (CHUNKED + b"0\r\nX: " + b"y" * 400_000, 431),
        (CHUNKED + b"0\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
        (CHUNKED + b"1;" + b"y" * 400_000, 431),
        (CHUNKED + b"0" * 400_000, 431),
        (CHUNKED + b"1\r\na\r\n" * 5 + b"1;" + b"y" * 400_000, 431),
        (b"\r\n" * 200_000, 431),
    ],
)  # fmt: skip
def test_what_is_no_request_of_ours_is_answered_once_and_the_connection_ends(request_bytes: bytes, status: int) -> None:
    async def scenario(echo: Echo, connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        client.send(request_bytes + GET)
        got, headers, body = await client.answer()
        assert (got, headers["connection"]) == (status, "close")
        assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
        assert await client.rest() == b""
        assert not echo.begun

    with_echo(scenario, max_body_bytes=1024)


def test_a_refusal_without_a_body_leaves_the_connection_open() -> None:
    async def scenario(_echo: Echo, connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        client.send(b"GET /forbidden HTTP/1.1\r\nHost: x\r\n\r\n" + GET)
        assert (await client.answer())[0] == 401
        assert (await client.echoed())["path"] == "/echo"

    with_echo(scenario)


def test_a_client_that_asks_before_it_sends_is_told_to_go_on_or_not_to() -> None:
    async def scenario(_echo: Echo, connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert (await client.head())[0] == 100
        client.send(b"hi")
        assert (await client.echoed())["body"] == "hi"
        client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\nExpect: 100-continue\r\n\r\n")
        assert (await client.answer())[0] == 413

    with_echo(scenario, max_body_bytes=1024)


def test_who_would_rather_speak_http2_is_answered_in_http1() -> None:
    async def scenario(_echo: Echo, connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        client.send(post(b"hi", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"))
        assert (await client.echoed())["body"] == "hi"
        assert await client.rest() == b""

    with_echo(scenario)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_stream_comes_in_chunks_or_until_the_end_of_the_connection(version: str) -> None:
    async def scenario(_echo: Echo, connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        client.send(b"GET /stream HTTP/%b\r\nHost: x\r\n\r\n" % version.encode())
        status, headers = await client.head()
        assert (status, headers["content-type"]) == (200, "text/event-stream")
        events = b"data: 0\n\n", b"data: 1\n\n", b"data: 2\n\n"
        if version == "1.0":
            assert await client.rest() == b"".join(events)
        else:
            expected = b"".join(b"9\r\n%b\r\n" % event for event in events) + b"0\r\n\r\n"
            assert await client.reader.readexactly(len(expected)) == expected
            client.send(GET)
            assert (await client.echoed())["path"] == "/echo"

    with_echo(scenario)


def test_a_client_that_goes_away_cancels_its_request() -> None:
    async def scenario(echo: Echo, connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        client.send(post(b"", path="/wait"))
        await until(lambda: echo.begun)
        client.writer.close()
        await until(lambda: echo.cancelled)
        assert not echo.connections

    with_echo(scenario)


def test_a_client_that_ends_its_side_is_answered() -> None:
    async def scenario(echo: Echo, connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        client.send(post(b"", path="/wait"))
        client.writer.write_eof()
        assert (await client.head())[0] == 100
        echo.go_on.set()
        status, headers, body = await client.answer()
        assert (status, headers["connection"], json.loads(body)["path"]) == (200, "close", "/wait")
        assert await client.rest() == b""
        assert not echo.cancelled

    with_echo(scenario)


def test_requests_that_were_sent_at_once_are_all_answered_after_the_end_of_the_clients_side() -> None:
    async def scenario(_echo: Echo, connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        client.send(post(b"1") + post(b"2") + post(b"3"))
        client.writer.write_eof()
        assert [(await client.echoed())["body"] for _ in range(3)] == ["1", "2", "3"]
        assert await client.rest() == b""

    with_echo(scenario)


def test_a_client_of_http_1_0_that_ends_its_side_is_taken_for_gone() -> None:
    async def scenario(echo: Echo, connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        client.send(b"GET /wait HTTP/1.0\r\nHost: x\r\n\r\n")
        client.writer.write_eof()
        assert await client.rest() == b""
        await until(lambda: echo.cancelled)

    with_echo(scenario)


def test_answers_that_are_not_taken_keep_the_next_requests_waiting() -> None:
    async def scenario(echo: Echo, connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        large = post(b"x" * 100_000)
        for _ in range(100):
            client.send(large)
        await until(lambda: any(connection.is_paused for connection in echo.connections))
        (connection,) = echo.connections
        begun = len(echo.begun)
        assert connection._transport.get_write_buffer_size() < 1 << 20
        await asyncio.sleep(0)
        assert len(echo.begun) == begun < 100
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(100):
            assert len((await client.echoed())["body"]) == 100_000

    with_echo(scenario)


def test_of_the_strangers_that_hold_much_the_first_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llcuda.gateway.http.connection._MAX_HOLDING", 2)

    async def scenario(echo: Echo, connect: Callable[[], Awaitable[Client]]) -> None:
        clients = []
        for _ in range(3):
            clients.append(await connect())
            clients[-1].send(b"GET /echo HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 10_000)
            await until(lambda: len(echo.holding) == min(len(clients), 2))
        with pytest.raises(ConnectionResetError):
            await clients[0].rest()
        for client in clients[1:]:
            client.send(b"\r\n\r\n")
            assert len((await client.echoed())["headers"]["x"]) == 10_000
        assert not echo.holding

    with_echo(scenario)


def test_a_slow_reader_makes_the_source_wait_and_is_cut_in_the_end() -> None:
    async def scenario(echo: Echo, connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: echo.begun)
        (connection,) = echo.connections
        kept = connection._transport.get_extra_info("socket")
        assert 0 < kept.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) <= 1 << 16
        connection.check_time(asyncio.get_running_loop().time())
        assert echo.connections
        connection.check_time(asyncio.get_running_loop().time() + 61)
        await until(lambda: not echo.connections)
        assert echo.slow_readers == 1
        assert echo.cancelled == ["/flood"]

    with_echo(scenario)


@pytest.mark.parametrize(
    ("sent", "after", "status"),
    [
        (b"GET /echo HTTP/1.1\r\nHo", 11, 408),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf", 31, 408),
        (post(b"", path="/wait"), 601, 504),
        (b"", 76, None),
    ],
)
def test_what_takes_too_long_is_ended(sent: bytes, after: float, status: int | None) -> None:
    async def scenario(echo: Echo, connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        client.send(sent)
        for _ in range(20):  # turns of the loop, which both ends share
            await asyncio.sleep(0.005)
        (connection,) = echo.connections
        connection.check_time(asyncio.get_running_loop().time())
        assert not client.reader.at_eof()
        connection.check_time(asyncio.get_running_loop().time() + after)
        if status is None:
            assert await client.rest() == b""
        else:
            assert (await client.answer())[0] == status

    with_echo(scenario)


def test_a_gateway_that_ends_answers_what_it_has_and_says_that_it_is_the_last() -> None:
    async def scenario(echo: Echo, connect: Callable[[], Awaitable[Client]]) -> None:
        client, idle, sending = await connect(), await connect(), await connect()
        whole = post(b"late")
        sending.send(whole[:-2])
        client.send(post(b"", path="/wait"))
        await until(lambda: echo.begun)
        echo.draining = True
        for connection in tuple(echo.connections):
            connection.close()
        assert await idle.rest() == b""
        sending.send(whole[-2:])
        assert (await sending.echoed())["body"] == "late"
        assert await sending.rest() == b""
        echo.go_on.set()
        status, headers, _ = await client.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert await client.rest() == b""

    with_echo(scenario)
