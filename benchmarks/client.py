"""What asking costs: CPU of the client's process per request and per streamed token, and of importing it.

Each figure is this process's own user and system time (``time.process_time``) against a stub that answers at once, and
the median of several rounds in which the clients take turns, so that a busy machine troubles all of them alike.
``burst`` tokens come as fast as the stub can send them; ``paced`` ones one a millisecond, so each wakes the process
up, which the kernel charges to it too: the row ``recv alone`` is that and nothing else.

    python benchmarks/client.py [--rounds 7] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from machine import describe_machine, format_machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_STUB = Path(__file__).with_name("stub.py")
_SOURCE = Path(__file__).parent.parent / "src"
_REQUESTS = 200
_BURST = 4000
_PACED = 400
_IMPORT_ROUNDS = 15

Work = dict[str, "Callable[[], object]"]


@contextlib.contextmanager
def run_stub() -> Iterator[int]:
    """Run the stub; the value is its port."""
    with subprocess.Popen(
        [sys.executable, "-I", str(_STUB)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None  # noqa: S101 - for the type checker
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def measure(work: Callable[[], object], *, times: int) -> float:
    """Return the CPU microseconds that one of ``times`` runs takes."""
    begun = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - begun) / times * 1e6


def llcuda_work(port: int) -> Work:
    """Return what is measured of llcuda."""
    from llcuda.client import InferenceClient  # noqa: PLC0415

    client = InferenceClient("127.0.0.1", port)
    return {
        "plain request": lambda: client.tokenize("hello"),
        "16-token answer": lambda: client.infer("16 0", max_tokens=16, temperature=0.5),
        "stream": lambda: sum(1 for _ in client.infer_stream(f"{_BURST} 0")),
        "paced": lambda: sum(1 for _ in client.infer_stream(f"{_PACED} 0.001")),
    }


def httpx_work(port: int) -> Work:
    """Return the same with httpx and json, written the way its manual does."""
    import httpx  # noqa: PLC0415

    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60)

    def ask(prompt: str, *, stream: bool) -> dict[str, Any]:
        return {
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": 16,
            "temperature": 0.5,
            "stream": stream,
        }

    def stream(prompt: str) -> int:
        pieces = 0
        with client.stream("POST", "/v1/chat/completions", json=ask(prompt, stream=True)) as response:
            for line in response.iter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    choices = json.loads(line[6:])["choices"]
                    pieces += bool(choices and choices[0]["delta"].get("content"))
        return pieces

    return {
        "plain request": lambda: client.post("/tokenize", json={"content": "hello"}).json()["tokens"],
        "16-token answer": lambda: client.post("/v1/chat/completions", json=ask("16 0", stream=False)).json(),
        "stream": lambda: stream(f"{_BURST} 0"),
        "paced": lambda: stream(f"{_PACED} 0.001"),
    }


def openai_work(port: int) -> Work:
    """Return the same with the official client; it has no plain request, so that one is an embedding's price."""
    import openai  # noqa: PLC0415

    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)

    def ask(prompt: str, *, stream: bool) -> Any:
        return client.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": prompt}], max_tokens=16, temperature=0.5, stream=stream
        )

    def read(prompt: str) -> int:
        return sum(1 for chunk in ask(prompt, stream=True) if chunk.choices and chunk.choices[0].delta.content)

    return {
        "plain request": client.models.with_raw_response.list,
        "16-token answer": lambda: ask("16 0", stream=False),
        "stream": lambda: read(f"{_BURST} 0"),
        "paced": lambda: read(f"{_PACED} 0.001"),
    }


def receive_work(port: int) -> Work:
    """Return bare reads of the same paced stream: what the kernel takes for waking the process up."""
    body = json.dumps({"stream": True, "messages": [{"content": f"{_PACED} 0.001"}]}).encode()
    request = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)

    def stream() -> None:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(request)
            while not connection.recv(65536).endswith(b"\r\n0\r\n\r\n"):
                pass

    return {"paced": stream}


_CLIENTS = {"llcuda": llcuda_work, "httpx": httpx_work, "openai": openai_work, "recv alone": receive_work}


def measure_clients(rounds: int) -> dict[str, dict[str, float]]:
    """Return per client and kind of work the median CPU microseconds per request or token."""
    samples: dict[str, dict[str, list[float]]] = {name: {} for name in _CLIENTS}
    with run_stub() as port:
        works = {name: make(port) for name, make in _CLIENTS.items()}
        for work in works.values():
            for run in work.values():
                run()
        for _ in range(rounds):
            for kind in ("plain request", "16-token answer", "stream", "paced"):
                for name, work in works.items():
                    if kind in work:
                        samples[name].setdefault(kind, []).append(_measure_kind(work[kind], kind))
    return {
        name: {kind: statistics.median(values) for kind, values in kinds.items()} for name, kinds in samples.items()
    }


def _measure_kind(run: Callable[[], object], kind: str) -> float:
    if kind == "stream":
        return measure(run, times=1) / _BURST
    if kind == "paced":
        return measure(run, times=1) / _PACED
    return measure(run, times=_REQUESTS)


def measure_imports() -> dict[str, float]:
    """Return the CPU milliseconds that an import adds to a bare interpreter: the least of 15 runs each, in turns."""
    codes = {
        "bare": "pass",
        "llcuda": "import llcuda",
        "llcuda.InferenceClient": "from llcuda import InferenceClient",
        "httpx": "import httpx",
        "ollama": "import ollama",
        "openai": "import openai",
    }
    samples: dict[str, list[float]] = {name: [] for name in codes}
    for _ in range(_IMPORT_ROUNDS):
        for name, code in codes.items():
            samples[name].append(_import_once(code))
    bare = min(samples["bare"])
    return {name: min(values) - (0 if name == "bare" else bare) for name, values in samples.items()}


def _import_once(code: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"PYTHONPATH": str(_SOURCE)} if _SOURCE.is_dir() else dict(os.environ)
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e3


def _print_report(report: dict[str, Any]) -> None:
    print(f"{format_machine(report['machine'])}\n")
    print(f"{'CPU us':24}{'plain request':>16}{'16-token answer':>18}{'token, burst':>15}{'token, paced':>15}")
    ours = report["clients"]["llcuda"]
    for name, figures in report["clients"].items():
        cells = [
            f"{figures[kind]:.1f} ({figures[kind] / ours[kind]:.1f}x)" if kind in figures else "-"
            for kind in ("plain request", "16-token answer", "stream", "paced")
        ]
        print(f"{name:24}{cells[0]:>16}{cells[1]:>18}{cells[2]:>15}{cells[3]:>15}")
    print("\nimport, CPU ms over a bare interpreter")
    for name, figure in report["imports"].items():
        ratio = "" if name == "bare" else f" ({figure / report['imports']['llcuda']:.1f}x)"
        print(f"{name:24}{figure:>10.1f}{ratio}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    report = {
        "machine": describe_machine(),
        "clients": measure_clients(arguments.rounds),
        "imports": measure_imports(),
    }
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        _print_report(report)


if __name__ == "__main__":
    main()
