"""A real ``llcuda serve`` in a process of its own, with a file of options, and what is in use of it.

``python -m tests.served_process serve …`` is llcuda, which ends when its standard input does: with whoever started it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from prometheus_client.parser import text_string_to_metric_families

from llcuda.cli import main
from tests.places import ROOT
from tests.processes import is_alive, wait_until
from tests.watched_gateway import end_with_input, read_rss
from tests.watching import ask_connection

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ADMIN", "BOUNDED", "MAX_IN_FLIGHT", "Footprint", "ServedProcess", "serving_process"]

ADMIN, BOUNDED = "sk-admin-0123456789abcdef", "sk-bounded-0123456789abcdef"
MAX_IN_FLIGHT = 12
"""Of the key that shows whether a caller's requests are counted right."""
_PATIENCE = 120.0
_GAUGES = ("llcuda_worker_busy", "llcuda_queue_waiting", "llcuda_queue_waiting_tokens")


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a gateway holds."""

    descriptors: int
    connections: int
    children: int
    gateway_mib: float
    workers_mib: dict[str, float]
    """Of the largest worker of each model file."""


class ServedProcess:
    """A gateway that runs."""

    def __init__(self, process: subprocess.Popen[bytes], *, folder: Path, key: str) -> None:
        self.process = process
        self.folder = folder
        self.audit = folder / "audit.jsonl"
        self._key = key
        self._is_killed = False
        self._log = folder / "serve.log"
        found = re.search(r" on http://\S+?:(\d+) and by gRPC on port (\d+)", self._await_line())
        assert found
        self.port, self.grpc_port = int(found[1]), int(found[2])

    def _await_line(self) -> str:
        def is_there() -> bool:
            assert self.process.poll() is None, self.log()
            return " on http" in self.log()

        wait_until(is_there, timeout=_PATIENCE, what="llcuda serve listens")
        return self.log()

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def ask(self, path: str, body: object = None, *, key: str = "", timeout: float = _PATIENCE) -> tuple[int, bytes]:
        """Return status and body of what the gateway answers."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        return ask_connection(connection, path, body, key=key or self._key)

    def read(self, path: str) -> Any:
        status, data = self.ask(path)
        assert status == 200, data
        return json.loads(data)

    def reload(self) -> int:
        """Have every worker replaced, and return the status of the answer."""
        return self.ask("/api/admin/reload", {}, key=ADMIN)[0]

    def find_workers(self) -> dict[int, str]:
        """Return the pids of the llama-servers that run, with the file of the model of each."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return {child.pid: name for child in children if (name := _read_model(child))}

    def count_restarts(self) -> int:
        return sum(worker["restarts"] for model in self.read("/api/status")["models"] for worker in model["workers"])

    def is_whole(self) -> bool:
        """Tell whether every worker there should be is ready."""
        workers = [worker for model in self.read("/api/status")["models"] for worker in model["workers"]]
        return bool(workers) and all(worker["state"] == "ready" for worker in workers)

    def find_in_use(self) -> dict[str, float]:
        """Return every count of what is under way that is not zero, by all who count."""
        counts: dict[str, float] = {}
        for family in text_string_to_metric_families(self.ask("/metrics")[1].decode()):
            for sample in family.samples:
                if sample.name in _GAUGES or sample.name.startswith("llamacpp:requests_"):
                    counts[f"{sample.name} {sample.labels.get('worker', '')}"] = sample.value
        for model in self.read("/api/status")["models"]:
            counts |= {f"status {name} {model['name']}": model[name] for name in ("waiting", "waiting_tokens")}
            counts |= {f"status busy {worker['name']}": worker["busy"] for worker in model["workers"]}
        for model in self.read("/api/capabilities")["models"]:
            counts[f"capabilities waiting {model['name']}"] = model["waiting"]
            counts |= {f"capabilities busy {worker['name']}": worker["busy"] for worker in model["workers"]}
        for slot in self.read("/slots"):
            counts[f"llama-server's slot {slot['id']} of {slot['worker']}"] = slot["is_processing"]
        return {name: count for name, count in counts.items() if count}

    def measure(self) -> Footprint:
        """Return what it holds now."""
        process = psutil.Process(self.process.pid)
        largest: dict[str, float] = {}
        for pid, model in self.find_workers().items():
            largest[model] = max(largest.get(model, 0), read_rss(pid))
        connections = [one for one in process.net_connections("tcp") if one.status == psutil.CONN_ESTABLISHED]
        return Footprint(
            process.num_fds(), len(connections), len(process.children(recursive=True)), read_rss(process.pid), largest
        )

    def kill(self) -> None:
        """End it by force, as if its machine had failed."""
        self._is_killed = True
        self.process.kill()

    def end(self) -> None:
        """Stop it, and see that nothing is left."""
        if self._is_killed:
            self.process.wait(_PATIENCE)
            return
        children = [child.pid for child in psutil.Process(self.process.pid).children(recursive=True)]
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(_PATIENCE) == 0, self.log()[-2000:]
        assert not [pid for pid in children if is_alive(pid)], "a child is left"


def _read_model(process: psutil.Process) -> str:
    """Return the name of the file that a llama-server serves, nothing if it is none or has ended."""
    try:
        line = process.cmdline()
        is_server = process.name() == "llama-server" and is_alive(process.pid)
        return Path(line[line.index("--model") + 1]).name if is_server else ""
    except (psutil.Error, ValueError, IndexError):
        return ""


def _write_config(folder: Path, models: list[dict[str, Any]], *, keys: dict[str, str], options: dict[str, Any]) -> Path:
    lines = [f"{name} = {json.dumps(value)}" for name, value in options.items()]
    for model in models:
        lines += ["[[models]]", *(f"{name} = {json.dumps(value)}" for name, value in model.items())]
    for name, key in keys.items():
        lines += ["[[keys]]", f"name = {json.dumps(name)}", f"key = {json.dumps(key)}"]
    lines += ["[[keys]]", 'name = "admin"', f'key = "{ADMIN}"', "admin = true", "priority = 100"]
    lines += ["[[keys]]", 'name = "bounded"', f'key = "{BOUNDED}"', f"max_in_flight = {MAX_IN_FLIGHT}"]
    path = folder / "serve.toml"
    path.touch(0o600)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@contextmanager
def serving_process(
    folder: Path, models: list[dict[str, Any]], *, key: str, **options: Any
) -> Iterator[ServedProcess]:
    """Run a gateway of these models until the block ends, which fails if something is left of it."""
    given = {"port": 0, "grpc_port": 0, "audit_log": str(folder / "audit.jsonl"), **options}
    config = _write_config(folder, models, keys={"client": key}, options=given)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), *filter(None, sys.path)))}
    command = [sys.executable, "-m", "tests.served_process", "serve", "--config", str(config)]
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
        )
    try:
        served = ServedProcess(process, folder=folder, key=key)
        yield served
        served.end()
    finally:
        process.kill()
        process.wait()
        assert process.stdin
        process.stdin.close()


def settle(served: ServedProcess, *, seconds: float = 120.0) -> dict[str, float]:
    """Wait until nothing is under way, and return what still is."""
    end = time.monotonic() + seconds
    while (left := served.find_in_use()) and time.monotonic() < end:
        time.sleep(0.1)
    return left


if __name__ == "__main__":
    threading.Thread(target=end_with_input, daemon=True).start()
    sys.exit(main(sys.argv[1:]))
