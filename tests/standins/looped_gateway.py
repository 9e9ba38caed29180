"""A gateway, its clients and its llama-servers in one event loop, whose clock stands still until it is moved.

Only the llama-servers are stand-ins: they listen on Unix sockets, and say what they are told to, when they are told to.
Nothing here takes time, so that a number of turns of the loop is enough for whatever was begun.
"""

from __future__ import annotations

import asyncio
import gc
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httptools

from llcuda.fleet.fleet import Fleet
from llcuda.fleet.served_model import ServedModel
from llcuda.fleet.states import State, WatchedServer
from llcuda.gateway import GatewayConfig, KeyConfig, Limits, ModelConfig
from llcuda.gateway.http.access import Access
from llcuda.gateway.http.connection import Connection
from llcuda.gateway.observe.gateway_metrics import GatewayMetrics
from llcuda.gateway.relay.service import GatewayService
from llcuda.transport.address import unix_address
from tests.standins import stub_answers
from tests.standins.stub_answers import Asked, build_stream, build_whole, read_request

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from llcuda.fleet.dispatch.worker import Worker

__all__ = [
    "KEYS", "Client", "LoopedFleet", "LoopedGateway", "LoopedServer", "Request", "StillLoop", "as_looped",
    "build_request", "run_still", "turns",
]  # fmt: skip

KEYS = {"low": KeyConfig("low", "k" * 31 + "l"), "high": KeyConfig("high", "k" * 31 + "h", priority=5, max_in_flight=4)}
_TURNS = 40
"""From a client to a worker, to a second one, and back takes some 20."""


class StillLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock only :meth:`advance` moves."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 1000.0
        self.reports: list[dict[str, Any]] = []
        """What nobody caught."""
        self.set_exception_handler(lambda _, report: self.reports.append(report))

    def time(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds

    def finish(self) -> None:
        """Close it, and the threads that it has started."""
        self.run_until_complete(self.shutdown_default_executor())
        self.close()


async def turns(number: int = _TURNS) -> None:
    """Let the loop go round."""
    for _ in range(number):
        await asyncio.sleep(0)


class Request:
    """One that has come to a llama-server, and how it is answered."""

    def __init__(self, link: _Link, asked: Asked) -> None:
        self._link = link
        self.asked = asked
        self.tag: Any = asked.tag
        self.sent = 0
        self.is_first = link.heard == 1
        """Whether its connection is new; one that was used before is tried once more if it breaks off at once."""

    @property
    def _whole(self) -> bytes:
        """The answer that does not stream; empty for one that does."""
        return b"" if self.asked.stream and self.asked.endpoint != "embeddings" else build_whole(self.asked, 0)

    def say(self) -> None:
        """Say one token, or the first byte of a whole answer."""
        if self._whole:
            self._link.transport.write(b"" if self.sent else self._whole[:1])
        else:
            stream = build_stream(self.asked, 0)
            self._link.transport.write(b"" if self.sent else stream.start)
            self._link.transport.write(stream.tokens[0])
        self.sent += 1

    def end(self) -> None:
        """Answer to the end."""
        if not self.sent:
            self.say()
        self.answer(self._whole[1:] or build_stream(self.asked, 0).end)

    def fail(self, status: int = 500) -> None:
        """Answer with an error, which is possible before the first token only."""
        self.answer(stub_answers.error(status, "told to", "server_error"))

    def break_off(self) -> None:
        """Say no more, and close."""
        self._link.transport.close()

    def answer(self, data: bytes) -> None:
        """Answer with these bytes."""
        self._link.request = None
        self._link.transport.write(data)


class _Link(asyncio.Protocol):
    """One connection of the gateway's to a llama-server."""

    def __init__(self, server: LoopedServer) -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._url = self._body = b""
        self.request: Request | None = None
        self.heard = 0
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._server.links[self] = None

    def connection_lost(self, _error: Exception | None) -> None:
        self._server.links.pop(self, None)
        self.request = None

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        path, body, self._url, self._body = self._url.decode(), self._body, b"", b""
        self.heard += 1
        if path in stub_answers.ENDPOINTS:
            self.request = Request(self, read_request(path, body))
            self._server.take(self.request)
        elif not self._server.is_silent:
            self.transport.write(stub_answers.plain(200, [] if path == "/slots" else {"tokens": [1]}))


class LoopedServer(WatchedServer):
    """One llama-server, as a worker sees it."""

    was_killed = False

    def __init__(self, name: str, socket_path: Path, *, slots: int) -> None:
        address = unix_address(str(socket_path))
        super().__init__(name, address, slots=slots, api_key="key", hang_timeout=10.0, on_change=lambda _: None)
        self.state = State.STARTING
        self.links: dict[_Link, None] = {}
        """In the order in which they came, and so they break off: a set's order is another in each run."""
        self.is_silent = False
        self.on_request: Callable[[Request], object] = lambda _: None
        """What is done with a request that comes; nothing: the test says it what to answer."""
        self._listening: asyncio.Server | None = None

    def take(self, request: Request) -> None:
        """Begin a request."""
        self.on_request(request)

    @property
    def requests(self) -> list[Request]:
        """What it is asked, and has not answered to the end."""
        return [link.request for link in self.links if link.request is not None]

    async def start(self) -> None:
        """Listen, and be ready."""
        loop = asyncio.get_running_loop()
        if self.address.is_unix:
            self._listening = await loop.create_unix_server(lambda: _Link(self), self.address.host)
        else:
            self._listening = await loop.create_server(lambda: _Link(self), self.address.host, self.address.port)
            port = self._listening.sockets[0].getsockname()[1]
            self.address = replace(self.address, port=port)
        self.state = State.READY

    def end(self, state: State = State.WAITING) -> None:
        """End like a process: nothing listens any more, and connections break off. What a worker sees is ``state``."""
        self.cut()
        self.state = state

    def cut(self) -> None:
        """End like a process whose end nobody has noticed yet."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
            if self.address.is_unix:
                Path(self.address.host).unlink(missing_ok=True)
        for link in tuple(self.links):
            link.transport.abort()


def as_looped(server: WatchedServer) -> LoopedServer:
    """Return a worker's server as what it is here."""
    assert isinstance(server, LoopedServer)
    return server


def build_request(path: str, fields: dict[str, Any], *, key: str = "low", headers: str = "") -> bytes:
    """Return a POST that is the last on its connection."""
    body = json.dumps(fields).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {KEYS[key].key}\r\n"
    head = f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


class Client(asyncio.Protocol):
    """One client, with one request."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.data = b""
        self.is_open = True
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_lost(self, _error: Exception | None) -> None:
        self.is_open = False

    @property
    def status(self) -> int:
        """Of the answer; 0 without one."""
        return int(self.data.split(b" ", 2)[1]) if self.data else 0

    @property
    def is_broken(self) -> bool:
        """Whether a stream has ended with an error."""
        return b"worker_failed" in self.data or b'"code": "stopping"' in self.data


class LoopedFleet(Fleet):
    """A fleet of such llama-servers, which are there when they are said to be."""

    def __init__(self, model: ServedModel) -> None:
        super().__init__(model.config, on_change=model.admission.dispatch, on_death=model.suspects.suspect_all)
        self.start_on_demand: Callable[[], Coroutine[Any, Any, None]] | None = None
        self.unloading: asyncio.Future[None] | None = None

    def follow(self, servers: list[LoopedServer]) -> None:
        """Have a worker for each of ``servers``: one more, or one less than before."""
        before: dict[Any, Worker] = dict(self.workers)
        now: dict[Any, Worker] = {server: before.get(server) or self._make_worker(server) for server in servers}
        self.workers = now
        for server, worker in before.items():
            if server not in now:
                worker.leave()
                self._on_change()
        for worker in now.values():
            worker.note_state()
            self._on_change()

    def find_worker(self, server: LoopedServer) -> Worker:
        """Return the worker of a server."""
        return self.workers[server]

    async def ensure_started(self) -> None:
        """Start nothing, but what a test says."""
        if self.start_on_demand is not None:
            await self.start_on_demand()

    async def stop(self, grace: float = 0.0) -> None:
        """Have no llama-server any more, once a test says so."""
        del grace
        if self.unloading is not None:
            await asyncio.shield(self.unloading)
        self.follow([])


class LoopedGateway:
    """The gateway: one model, workers of so many ``slots`` each, and nothing that runs by itself."""

    def __init__(self, folder: Path, *, slots: tuple[int, ...], max_queued: int = 4) -> None:
        self.folder = folder
        loop = asyncio.get_running_loop()
        assert isinstance(loop, StillLoop)
        self.loop = loop
        config = GatewayConfig(
            models=(ModelConfig("demo", "demo"),), keys=tuple(KEYS.values()), limits=Limits(max_queued=max_queued)
        )
        self.model = ServedModel(config.models[0], config.limits)
        self.model.fleet = self.fleet = LoopedFleet(self.model)
        self.service = GatewayService(
            config, access=Access(config, port=0), models={"demo": self.model}, metrics=GatewayMetrics(), own={}
        )
        self.servers = [LoopedServer(f"demo/{at}", folder / f"{at}", slots=count) for at, count in enumerate(slots)]
        self._listening: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen, with all workers ready."""
        for server in self.servers:
            await server.start()
        self.fleet.follow(self.servers)
        self._listening = await self.loop.create_unix_server(
            lambda: Connection(self.service, self.loop), str(self.folder / "gateway")
        )

    async def connect(self, request: bytes) -> Client:
        """Send a request."""
        _, client = await self.loop.create_unix_connection(lambda: Client(request), str(self.folder / "gateway"))
        return client

    def find_connection(self, request_id: str) -> Connection | None:
        """Return the connection whose request has this ``X-Request-Id`` and is being answered."""
        found = (one for one in self.service.connections if one._exchange and one._exchange.request_id == request_id)
        return next(found, None)

    @property
    def under_way(self) -> Counter[str]:
        """The requests that are counted, by the owner of their key."""
        return Counter({name: len(tasks) for name, tasks in self.service._callers._under_way.items()})

    def describe_rest(self) -> dict[str, Any]:
        """Return all that is left of requests: nothing, once they have ended."""
        admission = self.model.admission
        links = {worker.server.name: _count_links(worker) for worker in self.model.workers}
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        rest = {
            "waiting": admission.waiting, "tokens": admission.waiting_tokens, "callers": self.under_way,
            "reserved": admission._reserved, "connections": self.service.connections, "tasks": tasks,
            "at a worker": [request.tag for server in self.servers for request in server.requests],
            "links": {name: counts for name, counts in links.items() if any(counts)},
        }  # fmt: skip
        return {name: value for name, value in rest.items() if value}

    async def close(self) -> None:
        """Let everything go."""
        if self._listening is not None:
            self._listening.close()
        for connection in tuple(self.service.connections):
            connection.abort()
        await turns()
        self.fleet.follow([])
        for server in self.servers:
            server.cut()
        await turns()


def _count_links(worker: Any) -> tuple[int, int, int]:
    """Return the slots that are taken, the links in use, and the links that one side has and the other has not."""
    upstream = worker._upstream
    busy, idle = (len(upstream._busy), len(upstream._idle)) if upstream else (0, 0)
    return worker.busy, busy, busy + idle - len(worker.server.links)


def run_still(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario in a loop of its own, which must be left without a complaint."""
    loop = StillLoop()
    try:
        loop.run_until_complete(scenario())
        gc.collect()
        assert loop.reports == []
    finally:
        loop.finish()
