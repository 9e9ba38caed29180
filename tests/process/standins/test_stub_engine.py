"""The stand-in with a token clock: what it answers is what llama-server answers, and it fails as it is told to."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.processes import PATIENCE, wait_until
from tests.standins.stub_engine import write_executable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHAT = "/v1/chat/completions"
ASKED: dict[str, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "hello"}]},
    "completions": {"prompt": "hello"},
    "completion": {"prompt": "hello"},
    "embeddings": {"input": "hello"},
}
PATHS = {"chat": CHAT, "completions": "/v1/completions", "completion": "/completion", "embeddings": "/v1/embeddings"}


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)

    def ask(self, path: str, body: object = None) -> http.client.HTTPResponse:
        method, data = ("GET", None) if body is None else ("POST", json.dumps(body))
        self.request(method, path, body=data, headers={"Content-Type": "application/json"})
        return self.getresponse()


def steer(*, stream: bool = True, **wishes: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": json.dumps(wishes)}], "stream": stream}


@contextmanager
def connected(path: Path) -> Iterator[UnixConnection]:
    connection = UnixConnection(path)
    try:
        yield connection
    finally:
        connection.close()


def fetch(path: Path, target: str, body: object = None) -> Any:
    with connected(path) as connection:
        return json.loads(connection.ask(target, body).read())


def read_events(response: http.client.HTTPResponse) -> list[Any]:
    texts = re.findall(r"data: (.+)\n\n", response.read().decode())
    return [text if text == "[DONE]" else json.loads(text) for text in texts]


@contextmanager
def running(program: Path, host: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    command = [str(program), "--host", str(host), "--port", "0", *options]
    with subprocess.Popen(
        command, cwd=host.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout
            lines = iter(process.stdout.readline, "")
            line = next((line for line in lines if "listening on" in line), "")
            assert re.fullmatch(rf"\d+\.\d\d\.\d{{3}}\.\d{{3}} I srv  llama_server: listening on unix://{host}\n", line)
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_executable(tmp_path_factory.mktemp("stub") / "llama-server")


@pytest.fixture(scope="module")
def programs(program: Path, binaries: Path) -> list[Path]:
    return [binaries / "llama-server", program]


@pytest.fixture(scope="module")
def both(programs: list[Path], demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    hosts = [tmp_path_factory.mktemp(name) / "x.sock" for name in ("real", "stub")]
    options = ["--model", str(demo_model), "--parallel", "2", "--threads", "1", "--metrics", "--embeddings"]
    options += ["--pooling", "mean", "--cors-origins", "localhost", "--offline"]
    with running(programs[0], hosts[0], *options), running(programs[1], hosts[1], *options):
        yield hosts


@pytest.fixture
def stub(program: Path, tmp_path: Path) -> Iterator[Path]:
    with running(program, tmp_path / "x.sock", "--parallel", "2"):
        yield tmp_path / "x.sock"


def outline(value: object) -> object:
    """Return the keys and kinds of a JSON value, without what is in its lists of plain values."""
    if isinstance(value, dict):
        return {key: outline(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [outline(inner) for inner in value if isinstance(inner, dict)]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "number"
    return type(value).__name__


def headers_of(response: http.client.HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.getheaders() if name.lower() != "content-length"}


@pytest.mark.parametrize("endpoint", PATHS)
def test_a_whole_answer_is_llama_servers(both: list[Path], endpoint: str) -> None:
    seen = []
    for host in both:
        with connected(host) as connection:
            response = connection.ask(PATHS[endpoint], {**ASKED[endpoint], "max_tokens": 3, "n_predict": 3})
            seen.append((response.status, headers_of(response), outline(json.loads(response.read()))))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize("endpoint", ["chat", "completions", "completion"])
def test_a_stream_is_llama_servers(both: list[Path], endpoint: str, *, usage: bool) -> None:
    seen = []
    for host in both:
        more = {"stream_options": {"include_usage": True}} if usage else {}
        with connected(host) as connection:
            body = {**ASKED[endpoint], "max_tokens": 3, "n_predict": 3, "stream": True, **more}
            response = connection.ask(PATHS[endpoint], body)
            head = response.status, headers_of(response)
            seen.append((*head, [outline(event) for event in read_events(response)]))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("path", ["/health", "/props"])
def test_what_it_says_about_itself_is_llama_servers(both: list[Path], path: str) -> None:
    real, ours = (outline(fetch(host, path)) for host in both)
    if isinstance(real, dict) and isinstance(ours, dict):
        real.pop("chat_template_caps", None)
        ours.pop("chat_template_caps", None)
    assert real == ours


def test_an_idle_slot_that_was_busy_is_llama_servers(both: list[Path]) -> None:
    """Which of its slots, or how many, were ever busy is a server's own choice."""
    seen = []
    for host in both:
        fetch(host, PATHS["completion"], {**ASKED["completion"], "n_predict": 1})
        seen.append(next(outline(slot) for slot in fetch(host, "/slots") if "id_task" in slot))
    assert seen[0] == seen[1]


def test_slots_that_were_never_busy_are_llama_servers(programs: list[Path], demo_model: Path, tmp_path: Path) -> None:
    seen = []
    for number, program in enumerate(programs):
        host = tmp_path / f"{number}.sock"
        with running(program, host, "--model", str(demo_model), "--parallel", "2", "--threads", "1"):
            seen.append(outline(fetch(host, "/slots")))
    assert seen[0] == seen[1]


def test_a_busy_slot_is_llama_servers(both: list[Path]) -> None:
    long = {
        "prompt": json.dumps({"tokens": 1000, "token_ms": 10}),
        "max_tokens": 1000,
        "stream": True,
        "ignore_eos": True,
    }
    seen = []
    for host in both:
        with connected(host) as connection:
            connection.ask("/v1/completions", long)
            seen.append(next(outline(slot) for slot in fetch(host, "/slots") if slot["is_processing"]))
    assert seen[0] == seen[1]


def test_the_metrics_are_among_llama_servers(both: list[Path]) -> None:
    kinds = []
    for host in both:
        with connected(host) as connection:
            response = connection.ask("/metrics")
            assert response.getheader("Content-Type") == "text/plain; version=0.0.4"
            kinds.append(set(re.findall(r"# TYPE (llamacpp:\w+ \w+)\nllamacpp:\w+ \d", response.read().decode())))
    assert len(kinds[1]) == 5
    assert kinds[1] < kinds[0]


@pytest.mark.parametrize(("path", "body"), [("/nowhere", None), (CHAT, "no object"), (CHAT, {"messages": 3})])
def test_an_error_is_llama_servers(both: list[Path], path: str, body: object) -> None:
    seen = []
    for host in both:
        with connected(host) as connection:
            response = connection.ask(path, body)
            seen.append((response.status, headers_of(response), outline(json.loads(response.read()))))
    assert seen[0] == seen[1]


def test_the_hundredth_answer_closes_the_connection(both: list[Path]) -> None:
    for host in both:
        with connected(host) as connection:
            said = []
            for _ in range(100):
                response = connection.ask("/health")
                said.append(response.getheader("Connection"))
                response.read()
        assert said == [None] * 99 + ["close"]


def test_an_idle_connection_is_closed_after_five_seconds(both: list[Path]) -> None:
    with connected(both[0]) as real, connected(both[1]) as ours:
        for connection in (real, ours):
            connection.ask("/health").read()
        began = time.monotonic()
        for connection in (real, ours):
            assert connection.sock.recv(1) == b""
            assert time.monotonic() - began > 4


@pytest.mark.parametrize("number", [0, 1])
def test_sigterm_ends_it_and_leaves_its_socket(
    programs: list[Path], demo_model: Path, tmp_path: Path, *, number: int
) -> None:
    host, program = tmp_path / "x.sock", programs[number]
    with running(program, host, "--model", str(demo_model)) as process:
        assert fetch(host, "/health") == {"status": "ok"}
        second = [str(program), "--host", str(host), "--port", "0", "--model", str(demo_model)]
        assert subprocess.run(second, check=False, timeout=PATIENCE, capture_output=True).returncode == 1
        while process.poll() is None:
            process.send_signal(signal.SIGTERM)  # the real one can lose it
            time.sleep(0.05)
        assert process.returncode in {0, 1}
    assert host.is_socket()


def test_a_key_is_asked_for_where_llama_server_asks(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_API_KEY", "secret")
    with running(program, tmp_path / "x.sock"), connected(tmp_path / "x.sock") as connection:
        assert connection.ask("/health").read() == b'{"status":"ok"}'
        response = connection.ask("/props")
        assert response.status == 401
        assert response.read() == b'{"error":{"code":401,"message":"Invalid API Key","type":"authentication_error"}}'
        connection.request("GET", "/props", headers={"Authorization": "Bearer secret"})
        assert connection.getresponse().status == 200


def test_the_clock_gives_the_tokens_out(stub: Path) -> None:
    with connected(stub) as connection:
        began = time.monotonic()
        response = connection.ask(CHAT, steer(tokens=5, first_ms=100, token_ms=50, text="é"))
        first = time.monotonic() - began
        events = read_events(response)
        whole = time.monotonic() - began
    assert first >= 0.1
    assert whole >= 0.3
    assert "".join(event["choices"][0]["delta"].get("content") or "" for event in events[:-1]) == "é" * 5
    began = time.monotonic()
    answer = fetch(stub, CHAT, steer(stream=False, tokens=5, first_ms=100, token_ms=50))
    assert answer["choices"][0]["message"]["content"] == " token" * 5
    assert time.monotonic() - began >= 0.3


def test_a_token_says_when_it_was_sent(stub: Path) -> None:
    with connected(stub) as connection:
        began = time.monotonic_ns()
        events = read_events(connection.ask(CHAT, steer(tokens=3, token_ms=10, stamp=True)))
    texts = [event["choices"][0]["delta"].get("content") for event in events[1:-2]]
    stamps = [int(text.removeprefix("@")) for text in texts]
    assert [len(text) for text in texts] == [20] * 3
    assert stamps == sorted(stamps)
    assert all(stamp - began > 10e6 * number for number, stamp in enumerate(stamps))
    assert stamps[-1] < time.monotonic_ns()


def test_the_environment_has_the_defaults(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"STUB_TOKENS": "3", "STUB_FIRST_MS": "50", "STUB_TOKEN_MS": "50"}.items():
        monkeypatch.setenv(name, value)
    with running(program, tmp_path / "x.sock"):
        began = time.monotonic()
        answer = fetch(tmp_path / "x.sock", CHAT, ASKED["chat"])
    assert answer["usage"]["completion_tokens"] == 3
    assert time.monotonic() - began >= 0.15


def test_no_more_requests_run_than_there_are_slots(stub: Path) -> None:
    connections = [UnixConnection(stub) for _ in range(5)]
    for number, connection in enumerate(connections):
        # The first two give their slots back when they are left.
        connection.request("POST", CHAT, body=json.dumps(steer(tokens=2, token_ms=3_600_000 if number < 2 else 1)))
        wait_until(lambda count=number + 1: fetch(stub, "/stub")["requests"] == count)  # type: ignore[misc]
    wait_until(lambda: fetch(stub, "/stub")["requests"] == 5)
    report = fetch(stub, "/stub")
    assert (report["busy"], report["waiting"], report["highest"]) == (2, 3, 2)
    assert [slot["is_processing"] for slot in fetch(stub, "/slots")] == [True, True]
    for connection in connections[:2]:
        connection.close()
    for connection in connections[2:]:
        assert read_events(connection.getresponse())[-1] == "[DONE]"
        connection.close()
    report = fetch(stub, "/stub")
    assert (report["busy"], report["waiting"], report["highest"]) == (0, 0, 2)


def test_a_long_queue_of_quick_requests_is_served(stub: Path) -> None:
    slow = [UnixConnection(stub) for _ in range(2)]
    quick = [UnixConnection(stub) for _ in range(400)]
    for connection in slow:
        connection.request("POST", CHAT, body=json.dumps(steer(tokens=2, token_ms=1000)))
    for connection in quick:
        connection.request("POST", CHAT, body=json.dumps(steer(stream=False, tokens=2)))
    for connection in (*slow, *quick):
        assert connection.getresponse().read()
        connection.close()


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_slot_at_once(stub: Path, *, stream: bool) -> None:
    slow = steer(stream=stream, tokens=100, token_ms=3_600_000, tag=7)
    connections = [UnixConnection(stub) for _ in range(3)]
    for connection in connections:
        connection.request("POST", CHAT, body=json.dumps(slow))
    wait_until(lambda: fetch(stub, "/stub")["waiting"] == 1)
    began = time.monotonic()
    for connection in connections:
        connection.close()
    wait_until(lambda: fetch(stub, "/stub")["busy"] == 0)
    report = fetch(stub, "/stub")
    assert report["waiting"] == 0
    assert [tag for tag, _ in report["cancelled"]] == [7, 7, 7]
    assert all(at >= began for _, at in report["cancelled"])


def test_a_slot_keeps_what_it_has_read_and_written(stub: Path) -> None:
    opening = [{"role": "system", "content": "s" * 400}, {"role": "user", "content": json.dumps({"tokens": 4})}]
    answer = fetch(stub, CHAT, {"messages": opening})
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    said = answer["choices"][0]["message"]
    asked = {"messages": [*opening, said, {"role": "user", "content": "{}"}]}
    cached = fetch(stub, CHAT, asked)["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached > 100
    assert fetch(stub, CHAT, ASKED["chat"])["usage"]["prompt_tokens_details"]["cached_tokens"] < 5, "the other slot"
    again = fetch(stub, CHAT, asked)["usage"]
    assert again["prompt_tokens_details"]["cached_tokens"] == again["prompt_tokens"] - 1
    report = fetch(stub, "/stub")
    assert report["cache_hits"] == 2
    assert report["cached_tokens"] == cached + again["prompt_tokens"] - 1


def test_it_kills_itself_in_the_middle(program: Path, tmp_path: Path) -> None:
    with running(program, tmp_path / "x.sock") as process, connected(tmp_path / "x.sock") as connection:
        response = connection.ask(CHAT, steer(tokens=16, token_ms=10, die_at=3))
        with pytest.raises(http.client.IncompleteRead) as caught:
            response.read()
        assert caught.value.partial.count(b"token") == 3
        assert process.wait(PATIENCE) == -signal.SIGABRT


@pytest.mark.parametrize("token_ms", [0, 10])
def test_it_dies_before_the_first_byte(program: Path, tmp_path: Path, token_ms: int) -> None:
    with (
        running(program, tmp_path / "x.sock"),
        connected(tmp_path / "x.sock") as connection,
        pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)),
    ):
        connection.ask(CHAT, steer(die_at=0, token_ms=token_ms))


def test_it_falls_silent_and_stays_connected(stub: Path) -> None:
    with connected(stub) as connection:
        response = connection.ask(CHAT, steer(tokens=16, token_ms=10, silent_at=2))
        connection.sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            response.read()
        assert fetch(stub, "/stub")["busy"] == 1
    wait_until(lambda: fetch(stub, "/stub")["busy"] == 0)


@pytest.mark.parametrize("token_ms", [0, 10])
def test_it_cuts_a_stream_as_if_that_were_all(stub: Path, token_ms: int) -> None:
    with connected(stub) as connection:
        events = read_events(connection.ask(CHAT, steer(tokens=16, token_ms=token_ms, cut_at=3)))
        assert len(events) == 4
        assert "[DONE]" not in events
        with pytest.raises(http.client.IncompleteRead):
            connection.ask(CHAT, steer(stream=False, cut_at=3)).read()


def test_it_answers_with_the_error_that_it_was_told(stub: Path) -> None:
    with connected(stub) as connection:
        response = connection.ask(CHAT, steer(status=503))
        assert response.status == 503
        assert json.loads(response.read())["error"]["code"] == 503
        assert fetch(stub, "/stub")["busy"] == 0


def test_it_lists_its_devices(program: Path) -> None:
    listed = subprocess.run([program, "--list-devices"], check=True, timeout=PATIENCE, capture_output=True, text=True)
    assert listed.stdout.startswith("Available devices:\n")
