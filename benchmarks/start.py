"""What our start costs: from the call to the first token of the demo model, against a bare llama-server by hand.

``bare`` starts the same llama-server with the same options and reads its log for the line that it listens, which is
the fastest that can be done by hand. All use one thread, as the engine does for so small a model. ``manager`` is
ServerManager, ``engine`` InferenceEngine.load_model and infer_stream. Each run is a process of its own with a fresh
interpreter; the clock starts after the imports at the top (of ``llcuda``, and of ``ServerManager``), so what is
imported later counts. ``again`` is the second start within one process. The ways take turns in every round; a
difference is taken within its round. On a machine that does other things too, ``chrt -r 1`` before the command keeps
them out of the figures.

    python benchmarks/start.py [--rounds 25] [--model FILE] [--json]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

_SOURCE = Path(__file__).resolve().parent.parent / "src"
_PROMPT = json.dumps({"prompt": "1+1=", "n_predict": 1, "stream": True, "temperature": 0})
_WAYS = ("bare", "manager", "engine", "manager again", "engine again")
_LIMIT_MS = 25


def first_token(port: int, api_key: str) -> None:
    """Ask for one token and return when its first bytes are there."""
    head = f"POST /completion HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {api_key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(_PROMPT)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall((head + _PROMPT).encode())
        answer = b""
        while b"data: " not in answer:
            answer += connection.recv(65536) or sys.exit(f"no token: {answer!r}")


def run_bare(model: str) -> float:
    """Return the milliseconds of a start by hand."""
    from llcuda.native import binaries_dir, child_environment  # noqa: PLC0415 - only to find the same executable

    server = binaries_dir() / "llama-server"
    environment = child_environment(server, extra={"LLAMA_API_KEY": "by-hand"})
    command = [str(server), "--model", model, "--host", "127.0.0.1", "--port", "0", "--offline", "--no-ui", "--metrics"]
    command += ["--cors-origins", "localhost", "--log-colors", "off", "--parallel", "1", "--threads", "1"]
    begun = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    ) as process:
        assert process.stdout is not None  # noqa: S101 - for the type checker
        for line in process.stdout:
            if b"listening on http://" in line:
                first_token(int(line.rpartition(b":")[2]), "by-hand")
                break
        took = time.perf_counter() - begun
        process.kill()
    return took * 1000


def run_manager(model: str, *, starts: int) -> float:
    """Return the milliseconds of the last of so many starts through ServerManager."""
    from llcuda.server import ServerManager  # noqa: PLC0415 - each way in a process of its own

    took = 0.0
    for _ in range(starts):
        manager = ServerManager()
        begun = time.perf_counter()
        manager.start_server(model, threads=1)
        first_token(manager.port, manager.api_key or "")
        took = time.perf_counter() - begun
        manager.stop_server()
    return took * 1000


def run_engine(model: str, *, starts: int) -> float:
    """Return the milliseconds of the last of so many loads through InferenceEngine."""
    import llcuda  # noqa: PLC0415 - each way in a process of its own

    took = 0.0
    for _ in range(starts):
        engine = llcuda.InferenceEngine()
        begun = time.perf_counter()
        engine.load_model(model, silent=True)
        with engine.infer_stream("1+1=", max_tokens=1) as stream:
            next(iter(stream))
        took = time.perf_counter() - begun
        engine.unload_model()
    return took * 1000


def run_worker(way: str, model: str) -> float:
    """Run one way once, in this process."""
    if importlib.util.find_spec("llcuda") is None:
        sys.path.insert(0, str(_SOURCE))
    starts = 2 if way.endswith("again") else 1
    if way == "bare":
        return run_bare(model)
    return (run_manager if way.startswith("manager") else run_engine)(model, starts=starts)


def run_round(ways: list[str], model: str) -> dict[str, float]:
    """Run every way once, each in a process of its own."""
    command = [sys.executable, __file__, "--model", model, "--worker"]
    return {way: float(subprocess.check_output([*command, way], text=True, timeout=120)) for way in ways}


def summarise(rounds: list[dict[str, float]]) -> list[dict[str, float | str | int]]:
    """Return one row for each way: medians, and the median of the differences within a round."""
    rows: list[dict[str, float | str | int]] = []
    for way in rounds[0]:
        times = [each[way] for each in rounds]
        over = [each[way] - each["bare"] for each in rounds]
        ratio = [each[way] / each["bare"] for each in rounds]
        rows.append(
            {
                "way": way,
                "rounds": len(rounds),
                "median_ms": round(statistics.median(times), 1),
                "fastest_ms": round(min(times), 1),
                "over_bare_ms": round(statistics.median(over), 1),
                "ratio": round(statistics.median(ratio), 3),
            }
        )
    return rows


def main() -> int:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--model", default=str(_SOURCE / "llcuda" / "models_data" / "demo.gguf"))
    parser.add_argument("--way", action="append", choices=_WAYS)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", choices=_WAYS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    model = os.path.abspath(chosen.model)  # noqa: PTH100 - links are kept as they are
    if chosen.worker:
        print(run_worker(chosen.worker, model))
        return 0
    ways = ["bare", *(way for way in chosen.way or _WAYS if way != "bare")]
    run_round(ways, model)  # so that every file is in the page cache
    rounds = [run_round(ways if number % 2 else ways[::-1], model) for number in range(chosen.rounds)]
    rows = summarise([{way: each[way] for way in ways} for each in rounds])
    for row in rows:
        print(json.dumps(row) if chosen.json else "  ".join(f"{name} {value}" for name, value in row.items()))
    return int(any(float(row["over_bare_ms"]) > _LIMIT_MS for row in rows))


if __name__ == "__main__":
    sys.exit(main())
