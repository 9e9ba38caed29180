"""A stand-in for llama-server with a token clock: for load that needs a GPU, and for faults that need luck.

It takes llama-server's command line, listens where that says, prints its lines and answers its addresses. The prompt,
or the last message of a chat, says how it is answered, as JSON; what is left out comes from the environment
(``STUB_TOKENS``, ``STUB_FIRST_MS``, ``STUB_TOKEN_MS``):

    {"tokens": 16, "first_ms": 5, "token_ms": 1, "text": " token", "tag": 7}
    {"stamp": true}      gives every token of a stream with a clock the nanosecond at which it was sent
    {"status": 500}      answers with an error
    {"die_at": 3}        kills itself after three tokens; /tokenize does so for the content "die"
    {"silent_at": 2}     says nothing more after two, and stays connected
    {"heedless": true}   goes on where its client has left
    {"cut_at": 3}        ends the stream after three as if that were all, without [DONE]

A fault that lasts is begun and ended by ``POST /stub``: tests/standins/stub_faults.py.

With ``token_ms`` 0 the whole answer is one write. A client that goes away gives its slot back at once. ``GET /stub``
has the figures; the times in it are CLOCK_MONOTONIC's, which is the same for every process.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import httptools

from tests.standins import stub_answers
from tests.standins.stub_answers import error, read_request
from tests.standins.stub_slots import Engine, Run

__all__ = ["write_executable"]

_MAX_REQUESTS = 100  # on a connection, and the seconds that it may be idle: both as cpp-httplib has them
_MAX_IDLE_SECONDS = 5.0
_PUBLIC = {"/health", "/v1/health", "/v1/models", "/stub"}
_PREFIX = "0.00.008.754 I srv  "


def write_executable(target: Path) -> Path:
    """Write a llama-server that is this module, for LLAMA_SERVER_PATH."""
    target.parent.mkdir(parents=True, exist_ok=True)
    root = Path(__file__).parents[2]
    target.write_text(f'#!/bin/sh\nPYTHONPATH={root} exec {sys.executable} -s -m tests.standins.stub_engine "$@"\n')
    target.chmod(0o755)
    return target


class Connection(asyncio.Protocol):
    """One client."""

    __slots__ = (
        "_body", "_connections", "_count", "_engine", "_held", "_key", "_parser", "_url", "closes", "run", "transport",
        "used",
    )  # fmt: skip

    def __init__(self, engine: Engine, connections: set[Connection]) -> None:
        self._engine = engine
        self._connections = connections
        self._parser = httptools.HttpRequestParser(self)
        self._url = self._body = self._held = b""
        self._key = ""
        self._count = 0
        self.closes = False
        self.run: Run | None = None
        self.used = engine.loop.time()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._connections.add(self)

    def connection_lost(self, _error: Exception | None) -> None:
        self._connections.discard(self)
        if self.run is not None and not self.run.asked.heedless:
            run, self.run = self.run, None
            run.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()

    def on_message_begin(self) -> None:
        self._url = self._body = b""
        self._key = ""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        # llama-server takes either.
        if name.lower() in {b"authorization", b"x-api-key"}:
            self._key = value.decode("latin-1").removeprefix("Bearer ")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self.run is not None:
            self.transport.abort()  # one request at a time
            return
        self._count += 1
        self._engine.posts += self._parser.get_method() == b"POST"
        path = self._url.decode("latin-1").partition("?")[0]
        is_post = self._parser.get_method() == b"POST"
        if self._engine.key not in {"", self._key} and path not in _PUBLIC:
            self.finish(error(401, "Invalid API Key", "authentication_error"))
        elif path == "/stub":
            self._report(is_post=is_post)
        elif path == "/tokenize" and b'"die"' in self._body:
            os.abort()
        elif path in stub_answers.ENDPOINTS and is_post:
            self._generate(path)
        else:
            self.finish(self._engine.answer(path) or error(404, "File Not Found", "not_found_error"))

    def _report(self, *, is_post: bool) -> None:
        if is_post:
            self._engine.faults.begin(json.loads(self._body), self._connections)
        self.transport.write(stub_answers.plain(200, self._engine.report()))
        self.used = self._engine.loop.time()
        if not self._parser.should_keep_alive():
            self.close()

    def _generate(self, path: str) -> None:
        if self._engine.faults.answer(self):
            return
        try:
            asked = read_request(path, self._body)
        except (ValueError, KeyError, TypeError, AttributeError) as problem:
            self.finish(error(400, f"{type(problem).__name__}: {problem}", "invalid_request_error"))
            return
        if asked.endpoint == "embeddings" and not self._engine.embeds:
            message = "This server does not support embeddings. Start it with `--embeddings`"
            self.finish(error(501, message, "not_supported_error"))
            return
        self.run = run = Run(self._engine, self, asked)
        self._engine.submit(run)

    @property
    def holds(self) -> bool:
        """Whether it was given what it has not said."""
        return bool(self._held)

    def write(self, data: bytes) -> None:
        """Write a piece of an answer."""
        if self._count == _MAX_REQUESTS:
            data = data.replace(stub_answers.KEEP_ALIVE, stub_answers.CLOSE, 1)
        fault = self._engine.faults.name
        if fault == "silent" or (fault == "stuck" and self._url != b"/health"):
            self._held += data
        else:
            self.transport.write(data)

    def say_what_was_held(self) -> None:
        """Write what was not said while it was silent."""
        held, self._held = self._held, b""
        self.transport.write(held)
        if self.closes:
            self.transport.close()

    def close(self) -> None:
        """Close, once everything is said."""
        self.closes = True
        if not self._held:
            self.transport.close()

    def finish(self, data: bytes) -> None:
        """Write the end of an answer."""
        self.write(data)
        self.run = None
        self.used = self._engine.loop.time()
        if self._count == _MAX_REQUESTS or stub_answers.CLOSE in data or not self._parser.should_keep_alive():
            self.close()


def _close_idle(connections: set[Connection]) -> None:
    """Close the connections that nobody has used, and look again in a second."""
    loop = asyncio.get_running_loop()
    for connection in tuple(connections):
        is_done = connection.run is None and not connection.closes and not connection.holds
        if is_done and loop.time() - connection.used > _MAX_IDLE_SECONDS:
            connection.transport.close()
    loop.call_later(1, _close_idle, connections)


def _read_option(arguments: list[str], *names: str, default: str) -> str:
    given = [arguments[at + 1] for at, argument in enumerate(arguments[:-1]) if argument in names]
    return given[-1] if given else default


def _listen(host: str, port: int) -> tuple[socket.socket, str]:
    """Return a listening socket, and its address in llama-server's words; like it, leave another's socket alone."""
    if host.endswith(".sock"):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(host)
        return listener, f"unix://{host}"
    listener = socket.create_server((host, port))
    return listener, f"http://{host}:{listener.getsockname()[1]}"


def _say(line: str) -> None:
    print(f"{_PREFIX}{line}", flush=True)  # noqa: T201 - it is its log


async def _serve(arguments: list[str]) -> None:
    model = _read_option(arguments, "--model", "-m", default="stub.gguf")
    parallel = int(_read_option(arguments, "--parallel", "-np", default="4"))
    embeds = not {"--embeddings", "--embedding"}.isdisjoint(arguments)
    engine = Engine(parallel, model=model, key=os.environ.get("LLAMA_API_KEY", ""), embeds=embeds)
    connections: set[Connection] = set()
    _close_idle(connections)
    _say("llama_server: initializing ...")
    _say(f"  load_model: loading model '{model}'")
    port = int(_read_option(arguments, "--port", default="8080"))
    listener, address = _listen(_read_option(arguments, "--host", default="127.0.0.1"), port)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, os._exit, 0)
    create: Any = loop.create_unix_server if listener.family == socket.AF_UNIX else loop.create_server
    server = await create(lambda: Connection(engine, connections), sock=listener, backlog=1024)
    _say(f"  load_model: initializing, n_slots = {parallel}, n_ctx_slot = 4096, kv_unified = 'false'")
    _say("llama_server: model loaded")
    _say(f"llama_server: listening on {address}")
    await server.serve_forever()


def main() -> None:
    if "--list-devices" in sys.argv:
        print("Available devices:\n  (none)")  # noqa: T201 - what it was asked for
        return
    try:
        asyncio.run(_serve(sys.argv[1:]))
    except OSError as problem:
        sys.exit(f"{_PREFIX}       start: couldn't bind HTTP server socket: {problem}")


if __name__ == "__main__":
    main()
