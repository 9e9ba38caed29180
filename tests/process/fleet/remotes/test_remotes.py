"""Workers of other machines: real gateways and llama-servers, reached over TCP as if they were far away."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import dns.asyncresolver
import dns.message
import dns.rdatatype
import dns.rrset
import httpx
import pytest

from llcuda import InferenceEngine
from llcuda.errors import ServerError
from llcuda.fleet.fleet import Fleet
from llcuda.fleet.states import State
from llcuda.fleet.timeouts import timeout
from llcuda.gateway import GatewayConfig, KeyConfig, ModelConfig, RemoteConfig
from llcuda.gateway.config.reading import read_config
from llcuda.gateway.gateway import Gateway
from tests.certificates import write_certificate
from tests.processes import PATIENCE, wait_until
from tests.served_process import ServedProcess, serving_process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


KEY = "sk-far-away"
QUESTION = {"messages": [{"role": "user", "content": "What is 2+2?"}], "temperature": 0}
ANSWER = "2 + 2 = 4."
ENDLESS = {"prompt": "What is 2+2?", "n_predict": 900, "ignore_eos": True, "n_probs": 100, "stream": True}


@contextmanager
def far(*, slots: int = 2, **options: Any) -> Iterator[Gateway]:
    model = ModelConfig("demo", "demo", slots=slots, device="cpu")
    with Gateway(GatewayConfig(models=(model,), port=0, keys=(KeyConfig("near", KEY),), **options)) as gateway:
        yield gateway


@contextmanager
def near(*remotes: RemoteConfig, workers: int = 0, **options: Any) -> Iterator[Gateway]:
    model = ModelConfig("demo", "demo", workers=workers, remotes=remotes, slots=2, device="cpu")
    with Gateway(GatewayConfig(models=(model,), port=0, **options)) as gateway:
        yield gateway


def ask(gateway: Gateway, **more: Any) -> str:
    answer = httpx.post(f"{gateway.url}/v1/chat/completions", json={**QUESTION, **more}, timeout=120, trust_env=False)
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def workers(gateway: Gateway) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(f"{gateway.url}/api/status", trust_env=False).json()["models"][0]["workers"]
    return found


def states(gateway: Gateway) -> list[str]:
    return [worker["state"] for worker in workers(gateway)]


def answered(gateway: Gateway) -> dict[str, int]:
    running = gateway._running
    assert running is not None
    return {worker.server.name: worker.answered for worker in running.models["demo"].workers}


def test_gateways_of_other_machines_share_the_requests() -> None:
    with far(slots=3) as one, far(slots=2) as other:
        remotes = [RemoteConfig(gateway.url, key=KEY) for gateway in (one, other)]
        with near(*remotes) as gateway:
            assert [(worker["slots"], worker["state"]) for worker in workers(gateway)] == [(3, "ready"), (2, "ready")]
            assert [worker["name"] for worker in workers(gateway)] == [
                f"demo@{remote.url.removeprefix('http://')}" for remote in remotes
            ]
            assert {ask(gateway) for _ in range(4)} == {ANSWER}
            with ExitStack() as stack:
                streams = []
                for _ in range(5):  # as many as both have slots
                    asked = httpx.stream("POST", f"{gateway.url}/completion", json=ENDLESS, timeout=60, trust_env=False)
                    streams.append(stack.enter_context(asked).iter_raw())
                    next(streams[-1])
                assert [worker["busy"] for worker in workers(gateway)] == [3, 2]
            wait_until(lambda: [worker["busy"] for worker in workers(gateway)] == [0, 0])


def test_a_llama_server_of_another_machine_answers_beside_one_of_this() -> None:
    with InferenceEngine() as engine:
        engine.load_model("demo", device="cpu", n_parallel=3)
        with near(RemoteConfig(engine.url, key=engine.api_key), workers=1) as gateway:
            wait_until(lambda: states(gateway) == ["ready", "ready"])
            assert sorted(worker["slots"] for worker in workers(gateway)) == [2, 3]
            running = gateway._running
            assert running is not None
            for worker in running.models["demo"].workers:
                other = next(one for one in running.models["demo"].workers if one is not worker)
                other.draining = True
                assert ask(gateway) == ANSWER
                other.draining = False
            assert all(count for count in answered(gateway).values())
        assert engine.check_server(), "it is not ended with the gateway"


def test_a_key_that_is_not_taken_is_told_and_nobody_is_asked(caplog: pytest.LogCaptureFixture) -> None:
    with far() as other, near(RemoteConfig(other.url, key="sk-wrong")) as gateway:
        assert states(gateway) == ["starting"]
        assert "does not take the key" in caplog.text
        assert httpx.get(f"{gateway.url}/health", trust_env=False).status_code == 503


def test_a_gateway_begins_although_nobody_is_there_yet(tmp_path: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    with near(RemoteConfig(f"http://127.0.0.1:{port}", key=KEY)) as gateway:
        assert states(gateway) == ["starting"]
        with served(tmp_path, port=port):
            wait_until(lambda: states(gateway) == ["ready"])
            assert ask(gateway) == ANSWER


@contextmanager
def served(folder: Path, *, port: int = 0) -> Iterator[ServedProcess]:
    folder.mkdir(exist_ok=True)
    model = {"name": "demo", "model": "demo", "device": "cpu", "slots": 2}
    with serving_process(folder, [model], key=KEY, port=port) as process:
        yield process


def test_a_gateway_that_is_killed_costs_no_whole_answer_and_comes_back(tmp_path: Path) -> None:
    with ExitStack() as stack:
        one, other = (stack.enter_context(served(tmp_path / name)) for name in ("one", "other"))
        urls = [f"http://127.0.0.1:{process.port}" for process in (one, other)]
        gateway = stack.enter_context(near(*(RemoteConfig(url, key=KEY) for url in urls)))
        answers: list[str] = []
        asking = [threading.Thread(target=lambda: answers.extend(ask(gateway) for _ in range(20))) for _ in range(4)]
        for thread in asking:
            thread.start()
        wait_until(lambda: len(answers) > 8)
        one.kill()
        for thread in asking:
            thread.join()
        assert answers == [ANSWER] * 80
        wait_until(lambda: states(gateway)[0] == "waiting")
        with served(tmp_path / "again", port=one.port):
            wait_until(lambda: states(gateway) == ["ready", "ready"])


class _Liar(BaseHTTPRequestHandler):
    """Says that it is well."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = {"/props": b'{"total_slots": 1e999}', "/api/capabilities": b'{"models": 7}'}.get(self.path, b"{}")
        self._say(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n{")
        self.close_connection = True

    def _say(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def lying(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_one_that_lies_costs_nobody_an_answer() -> None:
    with lying(_Liar) as url, near(RemoteConfig(url), workers=1) as gateway:
        wait_until(lambda: states(gateway) == ["ready", "ready"])
        assert {ask(gateway) for _ in range(10)} == {ANSWER}
        assert sum(worker["failures"] for worker in workers(gateway)) > 0
        for path in ("/metrics", "/slots", "/props", "/api/capabilities"):
            assert httpx.get(f"{gateway.url}{path}", trust_env=False).status_code == 200


def test_an_endless_health_is_none(caplog: pytest.LogCaptureFixture) -> None:
    class Endless(_Liar):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b" " * 65536)
            except OSError:
                self.close_connection = True

    with lying(Endless) as url, near(RemoteConfig(url)) as gateway:
        assert states(gateway) == ["starting"]
        assert "is longer than" in caplog.text


class NameServer:
    """Answers questions of DNS with these addresses."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.asked = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            data, client = self._socket.recvfrom(4096)
            if data == b"end":
                return
            self.asked += 1
            question = dns.message.from_wire(data)
            answer = dns.message.make_response(question)
            name, kind = question.question[0].name, question.question[0].rdtype
            if kind == dns.rdatatype.A and self.addresses:
                answer.answer.append(dns.rrset.from_text(name, 1, "IN", "A", *self.addresses))
            self._socket.sendto(answer.to_wire(), client)

    def close(self) -> None:
        self._socket.sendto(b"end", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()


@pytest.fixture
def names() -> Iterator[NameServer]:
    server = NameServer()
    yield server
    server.close()


def test_the_addresses_of_a_name_come_and_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: NameServer
) -> None:
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = ["127.0.0.1"], names.port
    monkeypatch.setattr(dns.asyncresolver, "get_default_resolver", lambda: resolver)
    with ExitStack() as stack:
        one = stack.enter_context(served(tmp_path / "one"))
        names.addresses = ["127.0.0.1"]
        gateway = stack.enter_context(near(RemoteConfig(f"dns://llcuda.test:{one.port}", key=KEY)))
        assert [worker["name"] for worker in workers(gateway)] == [f"demo@127.0.0.1:{one.port}"]
        assert ask(gateway) == ANSWER
        names.addresses = ["127.0.0.1", "127.0.0.2"]
        wait_until(lambda: len(workers(gateway)) == 2)
        names.addresses = ["127.0.0.1"]
        wait_until(lambda: len(workers(gateway)) == 1)
        assert ask(gateway) == ANSWER
        names.addresses = []
        wait_until(lambda: not workers(gateway))
        assert httpx.get(f"{gateway.url}/health", trust_env=False).status_code == 503


def test_a_reload_follows_the_configuration() -> None:
    with far() as one, far() as other:
        first, second = (RemoteConfig(gateway.url, key=KEY) for gateway in (one, other))
        with near(first) as gateway:
            running = gateway._running
            assert running is not None
            model = ModelConfig("demo", "demo", workers=1, remotes=(second,), slots=2, device="cpu")
            config = GatewayConfig(models=(model,), port=0)
            asyncio.run_coroutine_threadsafe(running.reload(config), running._loop).result()
            names = [worker["name"] for worker in workers(gateway)]
            assert names == [f"demo@{second.url.removeprefix('http://')}", "demo/0"]
            assert states(gateway) == [State.READY, State.READY]
            assert ask(gateway) == ANSWER


def test_a_worker_behind_tls_must_have_a_certificate_that_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    certificate, key = write_certificate(tmp_path)
    made_by: list[str] = []
    make = ssl.create_default_context

    def note(*arguments: Any, **named: Any) -> ssl.SSLContext:
        made_by.append(threading.current_thread().name)
        return make(*arguments, **named)

    monkeypatch.setattr("ssl.create_default_context", note)
    with far(tls_certificate=certificate, tls_key=key) as other:
        with near(RemoteConfig(other.url, key=KEY)) as gateway:
            assert states(gateway) == ["starting"]
            assert "certificate verify failed" in caplog.text
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        made_by.clear()
        with near(RemoteConfig(other.url, key=KEY)) as gateway:
            assert states(gateway) == ["ready"]
            assert ask(gateway) == ANSWER
    # Reading the certificates of the system takes 25 ms: once, and not on the loop.
    made = [thread for thread in made_by if thread != "MainThread"]  # which is the client's
    assert len(made) == 1
    assert made != ["llcuda-gateway"]


def test_a_stop_while_a_name_is_looked_up_is_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        asked = asyncio.Event()

        async def resolve(*_: object, **__: object) -> None:
            asked.set()
            await asyncio.sleep(3600)

        monkeypatch.setattr(dns.asyncresolver, "resolve", resolve)
        fleet = Fleet(ModelConfig("demo", "demo", workers=0, remotes=(RemoteConfig("dns://llcuda.test:1"),)))
        start = asyncio.ensure_future(fleet.start())
        await asked.wait()
        await fleet.stop()
        with pytest.raises(ServerError, match="was stopped while it was starting"):
            await start
        assert not fleet.workers

    asyncio.run(test())


def test_a_stop_while_a_worker_is_greeted_is_a_stop() -> None:
    async def test() -> None:
        came = asyncio.Event()

        async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            came.set()
            while await reader.read(4096):
                pass
            writer.close()

        silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        fleet = Fleet(ModelConfig("demo", "demo", workers=0, remotes=(RemoteConfig(f"http://127.0.0.1:{port}"),)))
        start = asyncio.ensure_future(fleet.start())
        await came.wait()
        async with timeout(PATIENCE):
            await fleet.stop()
        await start
        assert not fleet.workers
        silent.close()
        await silent.wait_closed()

    asyncio.run(test())


def test_where_others_run_a_model_is_not_chosen_here() -> None:
    admin = KeyConfig("admin", "sk-admin", is_admin=True)
    with far() as other, near(RemoteConfig(other.url, key=KEY), keys=(admin,)) as gateway:
        headers = {"Authorization": "Bearer sk-admin"}
        with httpx.Client(base_url=f"{gateway.url}/api/admin", headers=headers, timeout=120, trust_env=False) as client:
            answer = client.post("/offload", json={"model": "demo", "offload": "cpu"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "remote")
            assert '"step": "done"' in client.post("/benchmark", json={"prompts": 4}).text


def test_the_command_line_and_the_file_name_them(tmp_path: Path) -> None:
    with far() as other:
        key_file = tmp_path / "far.key"
        key_file.touch(0o600)
        key_file.write_text(f"{KEY}\n")
        path = tmp_path / "serve.toml"
        workers_line = f'workers = [{{ url = "{other.url}", key_file = "far.key" }}]'
        path.write_text(f'port = 0\n[[models]]\nname = "demo"\n{workers_line}\n')
        config = read_config({"config": str(path)}, environment={})
        assert config.models[0].remotes == (RemoteConfig(other.url, key=KEY, key_file=key_file),)
        assert KEY not in repr(config)
        with Gateway(config) as gateway:
            assert ask(gateway) == ANSWER
            assert KEY not in json.dumps(workers(gateway))
