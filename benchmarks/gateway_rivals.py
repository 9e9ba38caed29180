"""What the benchmark of the gateway compares, as processes of their own in front of tests/standins/stub_engine.py."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gateway_load import ask, build_body, read_children
from gateway_processes import UnavailableError, await_answer, find_port, run_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["RIVALS", "Rival", "Workplace", "running"]

_ROOT = Path(__file__).resolve().parent.parent
_PATIENCE = 20.0
_START_PATIENCE = 120.0
_HTTP_OK = 200


@dataclass(frozen=True)
class Workplace:
    """Where everything is put, and how much of the stub there is."""

    folder: Path
    environments: Path
    """Each rival that comes from pip has a virtual environment here."""
    slots: int = 512
    workers: int = 1
    earlier: Path | None = None
    """The package folder of another llcuda, to compare with."""


@dataclass(frozen=True)
class Rival:
    """Something that answers."""

    name: str
    addresses: tuple[str, ...]
    stubs: tuple[str, ...]
    pids: tuple[int, ...] = ()
    """The processes that stand between; not the stub's."""
    key: str = ""


@contextlib.contextmanager
def _stubs(place: Workplace, name: str, *, host: str = "", alone: bool = False) -> Iterator[list[str]]:
    """Run as many stubs as there are workers, or one with the slots of all, and return their addresses."""
    workers, slots = (1, place.workers * place.slots) if alone else (place.workers, place.slots)
    with contextlib.ExitStack() as stack:
        addresses = []
        for number in range(workers):
            path = place.folder / f"{name}{number}.sock"
            path.unlink(missing_ok=True)
            port = find_port() if host else 0
            command = [sys.executable, "-s", "-m", "tests.standins.stub_engine", "--parallel", str(slots)]
            command += ["--host", host or str(path), "--port", str(port)]
            log = f"{name}-stub{number}"
            process = stack.enter_context(run_process(command, folder=place.folder, name=log, PYTHONPATH=str(_ROOT)))
            addresses.append(f"{host}:{port}" if host else f"unix:{path}")
            await_answer(process, addresses[-1])
        yield addresses


@contextlib.contextmanager
def run_direct(place: Workplace) -> Iterator[Rival]:
    """Let the stub be asked itself, on its Unix socket."""
    with _stubs(place, "direct") as stubs:
        yield Rival("direct", tuple(stubs), tuple(stubs))


@contextlib.contextmanager
def run_direct_tcp(place: Workplace) -> Iterator[Rival]:
    """Let the stub be asked itself, on a port."""
    with _stubs(place, "direct-tcp", host="127.0.0.1") as stubs:
        yield Rival("direct, TCP", tuple(stubs), tuple(stubs))


@contextlib.contextmanager
def run_llcuda(place: Workplace, name: str = "llcuda", *, source: Path = _ROOT / "src") -> Iterator[Rival]:
    """Run `llcuda serve` with a key, its llama-server being the stub."""
    sys.path[:0] = [str(_ROOT)]
    from tests.standins.stub_engine import write_executable  # noqa: PLC0415 - the tests are not a package of ours

    server = write_executable(place.folder / "bin" / "llama-server")
    key, keys, port = os.urandom(16).hex(), place.folder / f"{name}.keys", find_port()
    keys.touch(mode=0o600)
    keys.write_text(f"bench:{key}\n", encoding="utf-8")
    command = [sys.executable, "-m", "llcuda", "serve", "-m", "demo", "--device", "cpu", "--port", str(port)]
    command += ["--workers", str(place.workers), "--slots", str(place.slots), "--api-key-file", str(keys)]
    environment = {"LLAMA_SERVER_PATH": str(server), "PYTHONPATH": str(source)}
    with run_process(command, folder=place.folder, name=name, **environment) as process:
        await_answer(process, f"127.0.0.1:{port}")
        stubs = tuple(f"unix:{path}" for path in sorted(_find_sockets(process.pid)))
        yield Rival(name, (f"127.0.0.1:{port}",), stubs, (process.pid,), key)


@contextlib.contextmanager
def run_earlier(place: Workplace) -> Iterator[Rival]:
    """Run another llcuda in the same way, from the folder that ``--earlier`` names."""
    if place.earlier is None:
        raise UnavailableError("--earlier names no folder")
    with run_llcuda(place, "earlier", source=place.earlier) as rival:
        yield rival


def _find_sockets(pid: int) -> set[str]:
    """Return the sockets that the stubs under a process listen on."""
    lines = [Path(f"/proc/{child}/cmdline").read_text(encoding="utf-8").split("\0") for child in read_children(pid)]
    found = {line[line.index("--host") + 1] for line in lines if "--host" in line}
    return {path for path in found if path.endswith(".sock")}


_NGINX = """
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
{user}
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {folder}/nginx-body;
    proxy_temp_path {folder}/nginx-proxy;
    fastcgi_temp_path {folder}/nginx-fastcgi;
    uwsgi_temp_path {folder}/nginx-uwsgi;
    scgi_temp_path {folder}/nginx-scgi;
    keepalive_requests 1000000;
    tcp_nodelay on;
    upstream stub {{
        least_conn;
        {servers}
        keepalive 1024;
        keepalive_timeout 4s;  # the stub closes after five
    }}
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location / {{
            proxy_pass http://stub;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 600s;
        }}
    }}
}}
"""


@contextlib.contextmanager
def run_nginx(place: Workplace) -> Iterator[Rival]:
    """Run nginx with one worker."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise UnavailableError("it is not installed (apt-get install nginx-light)")
    with _stubs(place, "nginx") as stubs:
        port, config = find_port(), place.folder / "nginx.conf"
        servers = " ".join(f"server {stub};" for stub in stubs)
        # Otherwise root's worker becomes somebody who cannot enter the folder.
        user = "user root;" if os.geteuid() == 0 else ""
        config.write_text(_NGINX.format(folder=place.folder, port=port, servers=servers, user=user), encoding="utf-8")
        command = [program, "-p", str(place.folder), "-c", str(config)]
        with run_process(command, folder=place.folder, name="nginx") as process:
            await_answer(process, f"127.0.0.1:{port}")
            pids = (process.pid, *read_children(process.pid))
            yield Rival("nginx", (f"127.0.0.1:{port}",), tuple(stubs), pids)


@contextlib.contextmanager
def run_aiohttp(place: Workplace) -> Iterator[Rival]:
    """Run the proxy that is written with aiohttp."""
    with _stubs(place, "aiohttp", alone=True) as stubs:
        port, script = find_port(), Path(__file__).with_name("gateway_aiohttp.py")
        command = [sys.executable, str(script), stubs[0][5:], str(port)]
        with run_process(command, folder=place.folder, name="aiohttp") as process:
            await_answer(process, f"127.0.0.1:{port}")
            yield Rival("aiohttp", (f"127.0.0.1:{port}",), tuple(stubs), (process.pid,))


_LITELLM = """
model_list:
  - model_name: demo
    litellm_params: {{model: openai/demo, api_base: "http://{stub}/v1", api_key: none}}
general_settings: {{master_key: "{key}"}}
litellm_settings: {{num_retries: 0, request_timeout: 600, telemetry: false}}
"""


def install(package: str, folder: Path) -> Path:
    """Return the folder of the programs of a package, installed into a virtual environment if it is not there."""
    programs = folder / package.partition("[")[0] / "bin"
    if not (programs / "installed").exists():
        try:
            subprocess.run([sys.executable, "-m", "venv", str(programs.parent)], check=True, timeout=60)
            subprocess.run([str(programs / "pip"), "install", "-qq", package], check=True, timeout=600)
        except (subprocess.SubprocessError, OSError) as error:
            raise UnavailableError(f"it cannot be installed: {error}") from error
        (programs / "installed").touch()
    return programs


@contextlib.contextmanager
def run_litellm(place: Workplace) -> Iterator[Rival]:
    """Run LiteLLM's proxy with one worker."""
    program = install("litellm[proxy]", place.environments) / "litellm"
    with _stubs(place, "litellm", host="127.0.0.1", alone=True) as stubs:
        port, config, key = find_port(), place.folder / "litellm.yaml", f"sk-{os.urandom(24).hex()}"
        config.write_text(_LITELLM.format(stub=stubs[0], key=key), encoding="utf-8")
        command = [str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
        quiet = {"LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        with run_process(command, folder=place.folder, name="litellm", **quiet) as process:
            address = f"127.0.0.1:{port}"
            await_answer(process, address, path="/health/liveliness", patience=_START_PATIENCE)
            pids = (process.pid, *read_children(process.pid))
            yield Rival("litellm", (address,), tuple(stubs), pids, key)


@contextlib.contextmanager
def run_rust_router(place: Workplace, name: str, *, arguments: Sequence[str] = ()) -> Iterator[Rival]:
    """Run a router in Rust with one thread, in front of stubs on TCP: neither takes a Unix socket."""
    program = install(name, place.environments) / name
    with _stubs(place, name, host="127.0.0.1") as stubs:
        port = find_port()
        command = [str(program), *arguments, "--worker-urls", *(f"http://{stub}" for stub in stubs)]
        command += ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(find_port())]
        command += ["--policy", "round_robin", "--log-level", "error"]
        with run_process(command, folder=place.folder, name=name, TOKIO_WORKER_THREADS="1") as process:
            address = f"127.0.0.1:{port}"
            await_answer(process, address, path="/readiness", patience=_START_PATIENCE)
            yield Rival(name, (address,), tuple(stubs), (process.pid, *read_children(process.pid)))


RIVALS: dict[str, Callable[[Workplace], contextlib.AbstractContextManager[Rival]]] = {
    "direct": run_direct,
    "direct-tcp": run_direct_tcp,
    "llcuda": run_llcuda,
    "earlier": run_earlier,
    "nginx": run_nginx,
    "aiohttp": run_aiohttp,
    "litellm": run_litellm,
    "vllm-router": partial(run_rust_router, name="vllm-router"),
    "sglang-router": partial(run_rust_router, name="sglang-router", arguments=["launch"]),
}


@contextlib.contextmanager
def running(names: list[str], place: Workplace, *, notes: list[str]) -> Iterator[dict[str, Rival]]:
    """Run those of the rivals that can be run; why another cannot is added to ``notes``."""
    with contextlib.ExitStack() as stack:
        entered = {name: _enter(stack, name, place) for name in names}
        notes += [one for one in entered.values() if isinstance(one, str) and one not in notes]
        yield {name: one for name, one in entered.items() if isinstance(one, Rival)}


def _enter(stack: contextlib.ExitStack, name: str, place: Workplace) -> Rival | str:
    """Return what runs now, or why it does not."""
    try:
        rival = stack.enter_context(RIVALS[name](place))
        _check(rival)
    except UnavailableError as error:
        log = place.folder / f"{name}.log"
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
        said = next((line for line in reversed(lines) if line.strip()), "nothing")
        return f"{name} is left out: {error}. It said: {said}"
    return rival


def _check(rival: Rival) -> None:
    """Ask it once, so that no figure is of errors."""
    status, answer = ask(
        rival.addresses[0], "/v1/chat/completions", body=build_body(tokens=2), key=rival.key, timeout=_PATIENCE
    )
    if status != _HTTP_OK:
        raise UnavailableError(f"it answers {status} {answer[:300].decode(errors='replace')}")
