"""The client of the binary protocol, and the command that speaks it, against a whole gateway with the demo model."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from llcuda.errors import ConnectionFailedError, PortInUseError, RequestTimeoutError, ResponseError
from llcuda.gateway import Gateway, GatewayConfig, GrpcClient, KeyConfig, Limits, ModelConfig
from tests.certificates import write_certificate
from tests.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "sk-user"
ANSWER = "2 + 2 = 4."


def serve(**options: Any) -> Gateway:
    models = options.pop("models", (ModelConfig("demo", "demo", slots=2),))
    return Gateway(GatewayConfig(models=models, port=0, grpc_port=0, **options))


def connect(gateway: Gateway, *, key: str | None = KEY, **options: Any) -> GrpcClient:
    assert gateway.grpc_port is not None
    return GrpcClient("127.0.0.1", gateway.grpc_port, api_key=key, **options)



@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with serve(keys=(KeyConfig("user", KEY),)) as gateway:
        yield gateway


@pytest.fixture
def client(gateway: Gateway) -> Iterator[GrpcClient]:
    with connect(gateway) as client:
        yield client


def run_command(gateway: Gateway, *arguments: str, key: str = KEY) -> subprocess.CompletedProcess[str]:
    script = "import sys; from llcuda.cli.client import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "--grpc", "--host", "127.0.0.1", "--port", str(gateway.grpc_port)]
    environment = {**os.environ, "LLAMA_API_KEY": key}
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, check=False, env=environment, timeout=60
    )


def test_a_prompt_is_answered_as_over_http(client: GrpcClient) -> None:
    result = client.infer("What is 2+2?", temperature=0)
    assert (result.text, result.finish_reason, result.model) == (ANSWER, "stop", "demo")
    assert result.tokens_generated > 3
    assert result.tokens_per_sec > 0
    assert "".join(client.infer_stream("What is 2+2?", temperature=0)) == ANSWER
    assert client.list_models() == ["demo"]


def test_options_reach_the_model(client: GrpcClient) -> None:
    result = client.infer("Once", raw=True, temperature=0, max_tokens=3, ignore_eos=True)
    assert (result.tokens_generated, result.finish_reason) == (3, "length")
    assert client.infer("What is 2+2?", temperature=0, stop_sequences=[" ="]).text == "2 + 2"


def test_a_batch_has_a_result_or_an_error_for_each(client: GrpcClient) -> None:
    results = client.batch(["What is 2+2?", "What is 3+3?", "What is 4+4?"], temperature=0)
    assert [getattr(result, "text", "") for result in results] == ["2 + 2 = 4.", "3 + 3 = 6.", "4 + 4 = 8."]
    refused = client.batch(["What is 2+2?"], top_p=7.0)
    assert [type(one) for one in refused] == [ResponseError]


def test_what_fails_is_the_error_that_http_has(gateway: Gateway, client: GrpcClient) -> None:
    with pytest.raises(ResponseError, match="no model 'other'") as missing:
        client.infer("x", model="other")
    assert missing.value.status == 404
    with connect(gateway, key="sk-wrong") as stranger, pytest.raises(ResponseError) as refused:
        stranger.infer("x")
    assert refused.value.status == 401
    with GrpcClient("127.0.0.1", 1, timeout=60) as nobody, pytest.raises(ConnectionFailedError, match=":1"):
        nobody.infer("x")
    with connect(gateway, timeout=0.02) as hasty, pytest.raises(RequestTimeoutError):
        hasty.infer("x", max_tokens=900, ignore_eos=True)


def test_the_key_comes_before_all_else_and_a_refusal_is_counted(tmp_path: Path) -> None:
    log = tmp_path / "audit"
    with serve(keys=(KeyConfig("user", KEY),), audit_log=log) as gateway:
        with connect(gateway, key="sk-wrong") as stranger:
            for ask in (lambda: stranger.infer("x", tools="all"), lambda: stranger.batch([])):
                with pytest.raises(ResponseError) as refused:
                    ask()
                assert refused.value.status == 401
        with connect(gateway) as client, pytest.raises(ResponseError, match="tools is not one of"):
            client.infer("x", tools="all")
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert [line["status"] for line in lines] == [401, 401, 400]


def test_who_stops_reading_frees_the_slot(gateway: Gateway, client: GrpcClient) -> None:
    stream = client.infer_stream("x", max_tokens=900, ignore_eos=True)
    next(stream)
    stream.close()
    assert gateway._running is not None
    (worker,) = gateway._running.models["demo"].workers
    wait_until(lambda: not worker.busy)


def test_two_hundred_calls_on_a_small_queue_are_answered_or_sent_away_in_time() -> None:
    models, limits = (ModelConfig("demo", "demo", slots=1),), Limits(max_queued=4)
    with serve(models=models, limits=limits) as gateway, connect(gateway, key=None) as client:

        def ask(_number: int) -> str | tuple[int, float | None]:
            try:
                return client.infer("What is 2+2?", temperature=0).text
            except ResponseError as error:
                return error.status, error.retry_after

        with ThreadPoolExecutor(64) as pool:
            answers = list(pool.map(ask, range(200)))
    refused = [answer for answer in answers if not isinstance(answer, str)]
    assert refused
    assert all(status == 429 and after is not None and after >= 1 for status, after in refused)
    assert {answer for answer in answers if isinstance(answer, str)} == {ANSWER}


def test_a_vector_for_each_text() -> None:
    model = ModelConfig("demo", "demo", server_options={"embeddings": True, "pooling": "mean"})
    with serve(models=(model,)) as gateway, connect(gateway, key=None) as client:
        first, second = client.embed(["one", "two"])
    assert len(first) == len(second) > 8
    assert first != second


def test_a_port_that_is_taken_is_said_to_be() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = GatewayConfig(models=(ModelConfig("demo", "demo"),), port=0, grpc_port=taken.getsockname()[1])
        with pytest.raises(PortInUseError):
            Gateway(config).start()


def test_the_health_follows_the_workers() -> None:
    with serve() as gateway, grpc.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel:

        def read_health() -> int:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
            return int(answer.status)

        assert read_health() == health_pb2.HealthCheckResponse.SERVING
        assert gateway._running is not None
        (replica,) = gateway._running.models["demo"].fleet.replicas
        assert replica.pid is not None
        os.kill(replica.pid, signal.SIGSTOP)
        try:
            wait_until(lambda: read_health() == health_pb2.HealthCheckResponse.NOT_SERVING)
        finally:
            os.kill(replica.pid, signal.SIGCONT)
        wait_until(lambda: read_health() == health_pb2.HealthCheckResponse.SERVING)


def test_it_is_spoken_over_tls(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    with serve(tls_certificate=certificate, tls_key=key) as gateway:
        with connect(gateway, key=None, certificate=certificate) as client:
            assert client.infer("What is 2+2?", temperature=0).text == ANSWER
        with connect(gateway, key=None, timeout=60) as plain, pytest.raises(ConnectionFailedError):
            plain.infer("What is 2+2?")


def test_the_command_prints_what_it_prints_over_http(gateway: Gateway) -> None:
    done = run_command(gateway, "-p", "What is 2+2?", "--temperature", "0")
    assert (done.stdout, done.stderr, done.returncode) == (f"{ANSWER}\n", "", 0)
    figures = json.loads(run_command(gateway, "-p", "What is 2+2?", "--temperature", "0", "--json").stdout)
    assert (figures["text"], figures["finish_reason"]) == (ANSWER, "stop")
    refused = run_command(gateway, "-p", "x", key="sk-wrong")
    assert refused.returncode == ResponseError.exit_code
    assert "API key" in refused.stderr


def test_where_it_is_answered_is_said(gateway: Gateway) -> None:
    told = httpx.get(f"{gateway.url}/api/capabilities", headers={"Authorization": f"Bearer {KEY}"}).json()
    assert told["grpc_port"] == gateway.grpc_port
    command = [sys.executable, "-m", "llcuda", "serve", "-m", "demo", "--port", "0", "--grpc-port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = next(line for line in process.stderr if " on http" in line)
        assert re.search(r"on http://127\.0\.0\.1:\d+ and by gRPC on port [1-9]\d+ ", said)
        process.terminate()
        assert process.wait(120) == 0
