"""README: starts a llama-server for an evaluation and talks to it over kept-alive connections."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import re
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_ROOT: Final = Path(__file__).resolve().parents[2]
_LISTENING: Final = re.compile(r"listening on http://127\.0\.0\.1:(\d+)")
_START_TIMEOUT: Final = 60.0
_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


class EvaluationError(RuntimeError):
    """Report that llama-server could not be found, started or asked."""


def find_binary(name: str, *, given: Path | None = None) -> Path:
    """Return an executable of llama.cpp: beside the given llama-server, in the installed package, in this tree."""
    if given is not None:
        return given.with_name(name)
    package = importlib.util.find_spec("llcuda")
    installed = [Path(place) for place in package.submodule_search_locations or ()] if package else []
    places = [place / "binaries" / name for place in (*installed, _ROOT / "src/llcuda")]
    places += sorted(_ROOT.glob(f"build/*/bin/{name}"))
    for place in places:
        if place.is_file():
            return place
    message = f"no {name} in {[str(place) for place in places]}; build it first or pass --server"
    raise EvaluationError(message)


@dataclass(frozen=True, slots=True)
class Server:
    """Know where a running llama-server listens; each thread keeps its own connection."""

    port: int
    local: threading.local = field(default_factory=threading.local)
    opened: list[http.client.HTTPConnection] = field(default_factory=list)

    def connect(self) -> http.client.HTTPConnection:
        """Return this thread's connection."""
        connection = getattr(self.local, "connection", None)
        if connection is None:
            connection = self.local.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
            self.opened.append(connection)
        return connection

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Post JSON and return JSON; EvaluationError for any status but 200."""
        response, text = self.exchange(path, json.dumps(body))
        if response.status != http.client.OK:
            message = f"{path} answered {response.status}: {text[:500]}"
            raise EvaluationError(message)
        reply: dict[str, Any] = json.loads(text)
        return reply

    def exchange(self, path: str, body: str) -> tuple[http.client.HTTPResponse, str]:
        """Post on this thread's connection, and once more where llama-server has closed it: it does after 5 s idle."""
        connection = self.connect()
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
        except (BrokenPipeError, ConnectionResetError, http.client.RemoteDisconnected):
            connection.close()
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
        return response, response.read().decode()

    def chat(self, messages: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
        """Return the assistant's message, greedy unless told otherwise."""
        body = {"messages": messages, "temperature": 0, "max_tokens": 300, "cache_prompt": True, **options}
        message: dict[str, Any] = self.post("/v1/chat/completions", body)["choices"][0]["message"]
        return message

    def ask(self, question: str, **options: Any) -> str:
        """Return the answer to one question."""
        return str(self.chat([{"role": "user", "content": question}], **options)["content"])


def ask_all(function: Callable[[_Item], _Answer], items: Sequence[_Item], *, parallel: int = 4) -> list[_Answer]:
    """Apply a function of a running server to all items, several at a time, in order."""
    with ThreadPoolExecutor(parallel) as pool:
        return list(pool.map(function, items))


def _await_port(process: subprocess.Popen[str], errors: IO[str]) -> int:
    log = []
    for line in errors:
        log.append(line)
        found = _LISTENING.search(line)
        if found:
            return int(found[1])
    message = f"llama-server exited with {process.wait()}:\n{''.join(log[-20:])}"
    raise EvaluationError(message)


@contextmanager
def run_server(model: Path, *, binary: Path, options: Sequence[str] = (), parallel: int = 4) -> Iterator[Server]:
    """Start llama-server on a free loopback port, yield it, and end it."""
    command = [str(binary), "--model", str(model), "--host", "127.0.0.1", "--port", "0", "--offline"]
    command += ["--ctx-size", str(1024 * parallel), "--parallel", str(parallel), "--threads", "1", "--jinja", *options]
    environment = {"PATH": os.defpath, "LD_LIBRARY_PATH": str(binary.parent)}
    process = subprocess.Popen(
        command, cwd=binary.parent, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, errors="replace",
    )  # fmt: skip
    errors = cast("IO[str]", process.stderr)
    watchdog = threading.Timer(_START_TIMEOUT, process.kill)
    watchdog.start()
    drain = threading.Thread(target=errors.read)
    try:
        server = Server(_await_port(process, errors))
        watchdog.cancel()
        drain.start()
        yield server
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        if drain.ident is not None:
            drain.join()
            for connection in server.opened:
                connection.close()
        errors.close()
