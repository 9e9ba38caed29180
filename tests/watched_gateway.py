"""A gateway that tells what it does: the real one, with a line on standard output for all that a harness wants to time.

``python -m tests.watched_gateway JSON`` serves until SIGTERM, or until standard input ends. The times are those of
CLOCK_MONOTONIC, which is the same for every process. ``{"forgets": true}`` lets it forget, whenever a worker is ready,
that it was ever started anew: a harness kills more often than five times a minute. ``{"choice": "random"}`` has it
choose workers by lot, for comparison.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llcuda.fleet.dispatch import admission
from llcuda.fleet.dispatch.worker import Slot, Worker
from llcuda.fleet.processes.replica import Restarts
from llcuda.gateway import GatewayConfig, KeyConfig, Limits, ModelConfig
from llcuda.gateway.gateway import Gateway

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from llcuda.fleet.dispatch.balance import WorkerView
    from llcuda.fleet.dispatch.worker import Job


def say(event: str, **facts: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, "at": time.monotonic(), **facts}) + "\n")
    sys.stdout.flush()


def read_config(wishes: dict[str, Any]) -> GatewayConfig:
    model = ModelConfig("demo", "demo", device="cpu", **wishes.get("model", {}))
    keys = tuple(KeyConfig(**key) for key in wishes.get("keys", ()))
    limits = Limits(**wishes.get("limits", {}))
    given = wishes.get("gateway", {}).items()
    settings: dict[str, Any] = {name: Path(value) if name.startswith("tls_") else value for name, value in given}
    return GatewayConfig(models=(model,), port=0, keys=keys, limits=limits, **settings)


def watch_worker(*, forgets: bool) -> None:
    """Tell when a worker is given a request, gives a slot back, fails, or has another state."""
    take, note_failure, note_state, give_back = Worker.take, Worker.note_failure, Worker.note_state, Worker.give_back

    def tell_take(self: Worker, job: Job, owner: asyncio.Task[Any], *, now: float) -> Slot:
        slot = take(self, job, owner, now=now)
        say("take", worker=self.server.name, busy=self.busy)
        return slot

    def tell_failure(self: Worker) -> None:
        note_failure(self)
        say("failure", worker=self.server.name)

    def tell_state(self: Worker) -> None:
        server: Any = self.server
        if forgets and server.state == "ready":
            server._past = Restarts()
        facts = {"pid": server.pid, "socket": str(server.socket_path), "key": server.api_key, "slots": server.slots}
        say("state", worker=server.name, state=server.state, **facts)
        note_state(self)

    def tell_release(self: Worker, slot: Slot) -> None:
        if slot in self.taken:
            say("release", worker=self.server.name, busy=self.busy - 1)
        give_back(self, slot)

    replace(Worker, take=tell_take, note_failure=tell_failure, note_state=tell_state, give_back=tell_release)


def replace(owner: object, **methods: Callable[..., Any]) -> None:
    for name, method in methods.items():
        setattr(owner, name, method)


def choose_by_lot(views: Sequence[WorkerView | None]) -> int | None:
    free = [index for index, view in enumerate(views) if view is not None and view.busy < view.slots]
    return random.choice(free) if free else None


def end_with_input() -> None:
    """Whoever started this is gone."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    wishes = json.loads(sys.argv[1])
    watch_worker(forgets=wishes.get("forgets", False))
    if wishes.get("choice") == "random":
        replace(admission, choose_worker=choose_by_lot)
    threading.Thread(target=end_with_input, daemon=True).start()
    gateway = Gateway(config := read_config(wishes))

    def tell_address(url: str) -> None:
        grpc_port = 0 if config.grpc_port is None else gateway.grpc_port
        say("listening", url=url, grpc_port=grpc_port, rss=read_rss(os.getpid()))

    gateway.run(on_ready=tell_address)


def read_rss(pid: int) -> float:
    """Return the MiB that a process has resident."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


if __name__ == "__main__":
    main()
