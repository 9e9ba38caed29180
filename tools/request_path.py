"""Count the files of llcuda that a chat goes through, the jumps between them, and the calls, in a real gateway.

    python -m tools.request_path [--json] [--requests 20] [--workers 1]

A jump is a call from a function in one file into a function in another, what lies between them in other packages left
out. A call is any call of a Python function, and any step of a coroutine. Both are counted on the gateway's thread,
from the first byte of the request to its record. What the gateway does every second, and its looks at the health of the
workers, are switched off. A stream costs more the more often a part of it is read: the figures are those of the fewest
reads, and the calls of each further read stand beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import sys
from http import HTTPStatus
from pathlib import Path
from statistics import linear_regression
from typing import TYPE_CHECKING, Any

import llcuda
from llcuda.fleet.processes import heartbeat
from llcuda.gateway import GatewayConfig, ModelConfig
from llcuda.gateway.running import Running

if TYPE_CHECKING:
    from types import CodeType, FrameType

_PACKAGE = f"{Path(llcuda.__file__).parent}/"
_FIRST, _LAST = "buffer_updated", "_record"
_QUESTION = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 16}


class RequestPath:
    """What one request has gone through so far."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.jumps = self.calls = self.reads = 0


class Watch:
    """The calls on the thread that it is started on."""

    def __init__(self) -> None:
        self.found: list[RequestPath] = []
        self._current: RequestPath | None = None
        self._own: dict[CodeType, str] = {}

    def start(self) -> None:
        sys.setprofile(self._note)

    def _note(self, frame: FrameType, event: str, _argument: object) -> None:
        name = frame.f_code.co_name
        if event == "call":
            if name == _FIRST and self._current is None and self._file(frame):
                self._current = RequestPath()
            if self._current is not None:
                self._count(self._current, frame, name)
        elif event == "return" and name == _LAST and self._current is not None and self._file(frame):
            self.found.append(self._current)
            self._current = None

    def _count(self, path: RequestPath, frame: FrameType, name: str) -> None:
        path.calls += 1
        file = self._file(frame)
        if not file:
            return
        path.files.add(file)
        path.reads += name == "data_received"
        caller = frame.f_back
        while caller is not None and not self._file(caller):
            caller = caller.f_back
        path.jumps += caller is not None and self._file(caller) != file

    def _file(self, frame: FrameType) -> str:
        """Return the file within the package, nothing for code of others."""
        code = frame.f_code
        file = self._own.get(code)
        if file is None:
            name = code.co_filename
            file = self._own[code] = name.removeprefix(_PACKAGE) if name.startswith(_PACKAGE) else ""
        return file


async def measure(*, requests: int, workers: int) -> dict[str, dict[str, Any]]:
    """Return what a streamed and a whole chat go through, of the requests that each is asked."""
    config = GatewayConfig(models=(ModelConfig("demo", "demo", workers=workers, device="cpu"),), port=0)
    running, watch = Running(config), Watch()
    heartbeat.PROBE_INTERVAL = 3600.0
    running._tick = asyncio.Event().wait  # type: ignore[assignment, method-assign] # noqa: SLF001
    await running.start()
    try:
        kinds = {}
        for kind in ("streamed", "whole"):
            watch.found = []
            loop = asyncio.get_running_loop()
            loop.call_soon(watch.start)
            await asyncio.to_thread(ask, running.port, stream=kind == "streamed", requests=requests)
            sys.setprofile(None)
            kinds[kind] = summarise(watch.found[2:])  # the first ones open connections, and fill caches
        return kinds
    finally:
        running.begin_stop(grace=0.0)
        await running.wait_closed()


def ask(port: int, *, stream: bool, requests: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    body = json.dumps({**_QUESTION, "stream": stream})
    for _ in range(requests + 2):
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        said = answer.read()
        if answer.status != HTTPStatus.OK:
            raise RuntimeError(said.decode())
    connection.close()


def summarise(found: list[RequestPath]) -> dict[str, Any]:
    least = min(found, key=lambda one: (one.reads, one.calls))
    reads = [one.reads for one in found]
    calls = [one.calls for one in found]
    return {
        "files": len(least.files),
        "jumps": least.jumps,
        "calls": least.calls,
        "reads": least.reads,
        "calls_a_read": round(linear_regression(reads, calls).slope, 1) if len(set(reads)) > 1 else None,
        "names": sorted(least.files),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON, with the names of the files")
    parser.add_argument("--requests", type=int, default=20, help="of each kind (%(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="llama-servers (%(default)s)")
    options = parser.parse_args()
    kinds = asyncio.run(measure(requests=options.requests, workers=options.workers))
    if options.json:
        print(json.dumps(kinds, indent=1))
        return
    columns = ("files", "jumps", "calls", "reads", "calls_a_read")
    print("chat    " + "".join(f"{name:>13}" for name in columns))
    for kind, figures in kinds.items():
        print(f"{kind:8}" + "".join(f"{figures[name] if figures[name] is not None else '':>13}" for name in columns))


if __name__ == "__main__":
    main()
