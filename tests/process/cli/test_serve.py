"""`llcuda serve` as a user starts it: a process, signals, and official clients that ask it."""

from __future__ import annotations

import json
import os
import signal
import ssl
import stat
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import openai
import psutil
import pytest

import llcuda
from tests.certificates import write_certificate
from tests.processes import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

QUESTION: Any = [{"role": "user", "content": "What is 2+2?"}]


class Served:
    """A `llcuda serve` that runs, where it listens, and what it has said."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url

    @property
    def workers(self) -> list[psutil.Process]:
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if child.name() == "llama-server"]

    def end(self, number: int) -> tuple[int, str]:
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said


@contextmanager
def serve(*arguments: str, **environment: str) -> Iterator[Served]:
    command = [sys.executable, "-m", "llcuda", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        line = next((line for line in process.stderr if " on http" in line), "")
        assert " on http" in line, line + (process.stderr.read() if process.poll() is not None else "")
        yield Served(process, line.partition(" on ")[2].split()[0])
    finally:
        process.kill()
        process.communicate()


def test_it_answers_the_official_client_and_ends_in_order() -> None:
    with serve("-m", "demo", "--workers", "2") as served:
        with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
            assert [model.id for model in client.models.list()] == ["demo"]
            answer = client.chat.completions.create(model="demo", messages=QUESTION, temperature=0)
            assert answer.choices[0].message.content == "2 + 2 = 4."
            stream: Any = client.chat.completions.create(
                model="demo", messages=QUESTION, temperature=0, stream=True
            )
            pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
            assert "".join(pieces) == "2 + 2 = 4."
            with pytest.raises(openai.NotFoundError, match="there is demo"):
                client.chat.completions.create(model="gpt-5", messages=QUESTION)
            with pytest.raises(openai.BadRequestError, match="temperature"):
                client.chat.completions.create(model="demo", messages=QUESTION, temperature=-1)
            assert client.completions.create(model="demo", prompt="What is 2+2?", max_tokens=3).usage
        workers = served.workers
        assert len(workers) == 2
        assert served.end(signal.SIGTERM)[0] == 0
        assert not any(worker.is_running() for worker in workers)


def test_our_own_clients_ask_it_as_they_ask_a_llama_server() -> None:
    with serve("-m", "demo", LLCUDA_SERVE_API_KEY="sk-secret") as served:
        with llcuda.InferenceClient(url=served.url, api_key="sk-secret") as client:
            assert client.infer("What is 2+2?", temperature=0).text == "2 + 2 = 4."
            assert "".join(client.infer_stream("What is 2+2?", temperature=0)) == "2 + 2 = 4."
            assert client.is_healthy()
        port = served.url.rpartition(":")[2]
        command = [sys.executable, "-c", "from llcuda.cli.client import main; raise SystemExit(main())"]
        command += ["--host", "127.0.0.1", "--port", port, "-p", "What is 2+2?"]
        environment = {**os.environ, "LLAMA_API_KEY": "sk-secret"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert done.stdout == "2 + 2 = 4.\n"
        stranger = llcuda.InferenceClient(url=served.url, api_key="wrong")
        with stranger, pytest.raises(llcuda.LlcudaError, match="401"):
            stranger.infer("What is 2+2?")


def test_a_key_and_a_page_of_another_site() -> None:
    with serve("-m", "demo", LLCUDA_SERVE_API_KEY="sk-secret") as served:
        key = {"Authorization": "Bearer sk-secret"}
        with httpx.Client(base_url=served.url, trust_env=False) as http:
            assert http.get("/health").json() == {"status": "ok"}
            assert http.get("/v1/models").status_code == 401
            assert http.get("/v1/models", headers=key).status_code == 200
            assert http.get("/v1/models", headers={**key, "Host": "evil.example"}).status_code == 421
            assert http.get("/v1/models", headers={**key, "Origin": "https://evil.example"}).status_code == 403
            form = {**key, "Content-Type": "text/plain"}
            assert http.post("/v1/chat/completions", headers=form, content=b"{}").status_code == 415


def test_a_page_of_an_allowed_origin_may_ask() -> None:
    origin = {"Origin": "https://app.example"}
    with (
        serve("-m", "demo", "--allowed-origin", "https://app.example") as served,
        httpx.Client(base_url=served.url, trust_env=False) as http,
    ):
        question = {**origin, "Access-Control-Request-Method": "POST"}
        allowed = http.options("/v1/chat/completions", headers=question)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://app.example"
        answer = http.post("/v1/chat/completions", headers=origin, json={"messages": QUESTION})
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert http.options("/v1/models", headers={"Origin": "https://b.example"}).status_code == 403


def test_sighup_takes_the_file_anew_and_replaces_the_workers(tmp_path: Path) -> None:
    config = tmp_path / "serve.toml"
    config.write_text('model = "demo"\nworkers = 1\nslots = 1\n')
    with serve("--config", str(config)) as served, httpx.Client(base_url=served.url, trust_env=False) as http:
        before = {worker.pid for worker in served.workers}
        config.write_text('model = "demo"\nworkers = 2\nslots = 1\n')
        served.process.send_signal(signal.SIGHUP)
        end = time.monotonic() + PATIENCE
        while len(http.get("/slots").json()) != 2 or before & {worker.pid for worker in served.workers}:
            assert time.monotonic() < end
            assert http.post("/v1/chat/completions", json={"messages": QUESTION}).status_code == 200
        config.write_text('model = "other=demo"\n')
        served.process.send_signal(signal.SIGHUP)
        assert served.process.stderr
        assert any("models cannot change while the gateway runs" in line for line in served.process.stderr)
        assert http.get("/v1/models").json()["data"][0]["id"] == "demo"


def test_its_llama_servers_end_with_it_however_it_dies() -> None:
    with serve("-m", "demo", "--workers", "2") as served:
        workers = served.workers
        served.end(signal.SIGKILL)
        gone, alive = psutil.wait_procs(workers, timeout=PATIENCE)
        assert len(gone) == 2
        assert not alive


def test_the_audit_log_says_who_asked_and_nothing_of_what(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    with serve("-m", "demo", "--audit-log", str(log), LLCUDA_SERVE_API_KEY="sk-secret") as served:
        with openai.OpenAI(base_url=f"{served.url}/v1", api_key="sk-secret") as client:
            client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "a private matter"}])
        httpx.get(f"{served.url}/v1/models", headers={"Authorization": "Bearer sk-guess"}, trust_env=False)
        served.end(signal.SIGTERM)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["key"], line["path"], line["status"]) for line in lines] == [
        ("environment", "/v1/chat/completions", 200),
        ("", "/v1/models", 401),
    ]
    assert lines[0]["completion_tokens"] > 0
    assert not {"private", "sk-secret", "sk-guess"} & set(log.read_text().replace('"', " ").split())
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_https_with_a_certificate_of_ones_own(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    with serve("-m", "demo", "--tls-certificate", str(certificate), "--tls-key", str(key)) as served:
        assert served.url.startswith("https://")
        trusted = ssl.create_default_context(cafile=str(certificate))
        with httpx.Client(base_url=served.url, verify=trusted, trust_env=False) as http:
            answer = http.post("/v1/chat/completions", json={"messages": QUESTION, "temperature": 0})
            assert answer.json()["choices"][0]["message"]["content"] == "2 + 2 = 4."
        with pytest.raises(httpx.HTTPError):
            httpx.get(served.url.replace("https", "http"), trust_env=False)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["-m", "/nonesuch.gguf"], 5, "/nonesuch.gguf"),
        (["-m", "demo", "--host", "0.0.0.0"], 2, "key"),  # noqa: S104 - it is refused
        (["-m", "demo", "--workers", "many"], 2, "many"),
        (["-m", "demo", "--device", "cuda"], 4, "GPU"),
        ([], 2, "model"),
    ],
)
def test_what_cannot_be_served_says_why(arguments: list[str], code: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llcuda", "serve", "--port", "0", *arguments],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "try:" in done.stderr


def test_a_port_that_is_taken_is_an_error_with_its_number() -> None:
    with serve("-m", "demo") as served:
        port = served.url.rpartition(":")[2]
        done = subprocess.run(
            [sys.executable, "-m", "llcuda", "serve", "-m", "demo", "--port", port],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 6
        assert f"port {port} on 127.0.0.1 is in use" in done.stderr
