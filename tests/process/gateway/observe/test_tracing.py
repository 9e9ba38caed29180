"""Traces of requests: the real exporter, a collector that decodes what it is sent, and engines of both kinds."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from llcuda.errors import UsageError
from llcuda.gateway import GatewayConfig, KeyConfig, ModelConfig
from llcuda.gateway.config.reading import read_config
from llcuda.gateway.gateway import Gateway
from tests.processes import PATIENCE, wait_until
from tests.standins.otlp_receiver import Receiver, attributes
from tests.standins.stub_engine import write_executable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "sk-of-ann-alone"
SECRET = "What did the cartographer hide?"
CHAT = "/v1/chat/completions"
CLIENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def chat(text: object, **more: Any) -> dict[str, Any]:
    content = text if isinstance(text, str) else json.dumps(text)
    return {"messages": [{"role": "user", "content": content}], **more}


@contextmanager
def serving(receiver: Receiver | str, **options: Any) -> Iterator[httpx.Client]:
    """A gateway whose spans have all been sent when the block has ended."""
    endpoint = receiver if isinstance(receiver, str) else receiver.url
    model = ModelConfig("demo", "demo", workers=options.pop("workers", 1), slots=options.pop("slots", 2))
    config = GatewayConfig(models=(model,), port=0, otlp_endpoint=endpoint, **options)
    headers = {"Authorization": f"Bearer {KEY}"}
    with Gateway(config) as gateway, httpx.Client(base_url=gateway.url, headers=headers, trust_env=False) as client:
        client.timeout = httpx.Timeout(60)
        yield client


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_SERVER_PATH", str(write_executable(tmp_path / "stub" / "llama-server")))


def families(receiver: Receiver) -> list[tuple[Span, dict[str, Span]]]:
    """Return every request's span, in the order of their starts, with its parts by name."""
    roots = sorted((one for one in receiver.spans if one.kind == Span.SPAN_KIND_SERVER), key=start)
    return [
        (root, {one.name: one for one in receiver.spans if one.parent_span_id == root.span_id and one is not root})
        for root in roots
    ]


def start(span: Span) -> int:
    return span.start_time_unix_nano


def seconds(span: Span) -> float:
    return (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9


def check_nested(root: Span, parts: dict[str, Span]) -> None:
    """Hold that each part lies within the whole, and begins where the one before it ended."""
    order = [parts[name] for name in ("queue", "prefill", "decode") if name in parts]
    assert all(one.trace_id == root.trace_id and one.kind == Span.SPAN_KIND_INTERNAL for one in order)
    within = [at for one in order for at in (start(one), one.end_time_unix_nano)]
    times = [start(root), *within, root.end_time_unix_nano]
    assert times == sorted(times)


class TestRealEngine:
    def test_streamed_and_whole_answers_have_a_span_with_its_parts(self) -> None:
        keys = (KeyConfig("ann", KEY),)
        with Receiver() as receiver:
            before = time.time_ns()
            with serving(receiver, keys=keys) as client:
                whole = client.post(CHAT, json=chat(SECRET, max_tokens=8)).json()
                fields = chat(SECRET, max_tokens=8, stream=True, stream_options={"include_usage": True})
                streamed = client.post(CHAT, json=fields)
                assert client.get("/v1/models").status_code == 200
            after = time.time_ns()
        assert streamed.status_code == 200
        (first, first_parts), (second, second_parts), (third, third_parts) = families(receiver)
        for root, parts in ((first, first_parts), (second, second_parts)):
            assert root.name == "POST /v1/chat/completions"
            assert {"prefill", "decode"} <= set(parts)
            check_nested(root, parts)
            assert before < start(root) < root.end_time_unix_nano < after
            facts = attributes(root)
            assert facts["gen_ai.usage.input_tokens"] == whole["usage"]["prompt_tokens"]
            assert facts["gen_ai.usage.output_tokens"] == whole["usage"]["completion_tokens"]
            assert (facts["gen_ai.operation.name"], facts["gen_ai.request.model"]) == ("chat", "demo")
            assert (facts["http.request.method"], facts["http.route"]) == ("POST", CHAT)
            assert (facts["http.response.status_code"], facts["url.scheme"]) == (200, "http")
            assert (facts["llcuda.key"], facts["llcuda.worker"]) == ("ann", "demo/0")
            assert root.status.code == Status.STATUS_CODE_UNSET
            assert "error.type" not in facts
        assert attributes(second)["llcuda.request.id"] == streamed.headers["x-request-id"]
        assert (third.name, third_parts) == ("GET /v1/models", {})
        assert receiver.paths == {"/v1/traces"}
        assert receiver.resource()["service.name"] == "llcuda"
        everything = b"".join(receiver.bodies)
        answer = whole["choices"][0]["message"]["content"].encode()
        for secret in (b"cartographer", KEY.encode(), b"Bearer", answer):
            assert secret not in everything

    def test_what_the_client_began_is_continued(self) -> None:
        trace, parent = CLIENT
        with Receiver() as receiver, serving(receiver) as client:
            for flags in ("01", "00"):
                headers = {"traceparent": f"00-{trace}-{parent}-{flags}", "tracestate": "vendor=1"}
                assert client.post(CHAT, json=chat("What is 2+2?", max_tokens=2), headers=headers).status_code == 200
            headers = {"traceparent": "nonsense"}
            assert client.post(CHAT, json=chat("What is 2+2?", max_tokens=2), headers=headers).status_code == 200
            client.get("/health")
        # The second was not sampled by whoever began it; so it is not here.
        (continued, parts), (fresh, _), _ = families(receiver)
        assert (continued.trace_id.hex(), continued.parent_span_id.hex()) == CLIENT
        assert continued.trace_state == "vendor=1"
        assert {one.trace_id.hex() for one in parts.values()} == {trace}
        assert len(receiver.spans) == 2 + len(parts) + 1 + 2
        assert fresh.trace_id.hex() != trace
        assert fresh.parent_span_id == b""


@pytest.mark.usefixtures("stub")
class TestWhatHappensToRequests:
    def test_one_that_waits_has_its_queue_and_one_that_does_not_has_none(self) -> None:
        fields = chat({"tokens": 8, "first_ms": 100, "token_ms": 100}, stream=True)
        with Receiver() as receiver, serving(receiver, slots=1) as client, ThreadPoolExecutor(2) as pool:
            for answer in pool.map(lambda _: client.post(CHAT, json=fields), range(2)):
                assert answer.status_code == 200
        (_, first), (root, second) = sorted(families(receiver), key=lambda one: one[0].end_time_unix_nano)
        assert "queue" not in first
        assert set(second) == {"queue", "prefill", "decode"}
        check_nested(root, second)
        assert seconds(second["queue"]) > 0
        assert seconds(second["queue"]) == pytest.approx(attributes(root)["llcuda.queue.seconds"], abs=0.05)
        assert seconds(second["prefill"]) > 0.09
        assert seconds(second["decode"]) > 0.1

    def test_a_stream_that_breaks_off_is_an_error_though_its_status_was_200(self) -> None:
        with Receiver() as receiver, serving(receiver, workers=2) as client:
            answer = client.post(CHAT, json=chat({"tokens": 8, "token_ms": 5, "cut_at": 3}, stream=True))
            assert "the answer broke off" in answer.text
        ((root, parts),) = families(receiver)
        assert root.status.code == Status.STATUS_CODE_ERROR
        assert attributes(root)["http.response.status_code"] == 200
        assert attributes(root)["error.type"] == "worker_failed"
        assert {"prefill", "decode"} <= set(parts)
        check_nested(root, parts)

    def test_an_error_of_the_engine_is_one_and_a_client_s_own_is_not(self) -> None:
        with Receiver() as receiver, serving(receiver) as client:
            assert client.post(CHAT, json=chat({"status": 500})).status_code == 500
            assert client.post(CHAT, json={"messages": SECRET}).status_code == 400
            assert client.post(CHAT, json={**chat("x"), "model": "none"}).status_code == 404
            assert client.get("/no/such/address?with=a-query").status_code == 404
            assert client.get("/v1/models", headers={"Host": "elsewhere.example"}).status_code == 421
        spans = [root for root, _ in families(receiver)]
        kinds = [(one.name, attributes(one).get("error.type"), one.status.code) for one in spans]
        assert kinds == [
            ("POST /v1/chat/completions", "worker_failed", Status.STATUS_CODE_ERROR),
            ("POST /v1/chat/completions", "invalid_value", Status.STATUS_CODE_UNSET),
            ("POST /v1/chat/completions", "model_not_found", Status.STATUS_CODE_UNSET),
            ("GET", "not_found", Status.STATUS_CODE_UNSET),
            ("GET /v1/models", attributes(spans[4])["error.type"], Status.STATUS_CODE_UNSET),
        ]
        assert [attributes(one)["http.response.status_code"] for one in spans] == [500, 400, 404, 404, 421]
        assert attributes(spans[3])["url.path"] == "/no/such/address"
        assert b"a-query" not in b"".join(receiver.bodies)
        assert b"cartographer" not in b"".join(receiver.bodies)

    def test_a_refusal_for_want_of_a_key_is_a_span_without_a_name(self) -> None:
        with Receiver() as receiver, serving(receiver, keys=(KeyConfig("ann", KEY),)) as client:
            assert client.get("/v1/models", headers={"Authorization": "Bearer sk-wrong-one"}).status_code == 401
        ((root, _),) = families(receiver)
        assert attributes(root)["http.response.status_code"] == 401
        assert "llcuda.key" not in attributes(root)
        assert b"sk-wrong-one" not in b"".join(receiver.bodies)

    def test_one_whose_client_goes_away_ends_there(self) -> None:
        fields = chat({"tokens": 3600, "token_ms": 1000}, stream=True)
        with Receiver() as receiver, serving(receiver) as client:
            with client.stream("POST", CHAT, json=fields) as answer:
                next(answer.iter_lines())
            wait_until(lambda: "llcuda_cancelled_total 1.0" in client.get("/metrics").text)
        root, parts = families(receiver)[0]
        assert attributes(root)["http.response.status_code"] == 499
        assert set(parts) == {"prefill", "decode"}
        check_nested(root, parts)

    def test_the_variables_of_opentelemetry_hold(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "answers")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        with Receiver() as receiver, serving(receiver) as client:
            client.get("/health")
        assert receiver.headers[0]["x-tenant"] == "blue"
        assert receiver.headers[0]["content-encoding"] == "gzip"
        assert receiver.resource()["service.name"] == "answers"
        assert receiver.resource()["deployment.environment.name"] == "test"


@pytest.mark.usefixtures("stub")
class TestCollectorsThatFail:
    @pytest.mark.parametrize("fault", ["dead", "refusing", "silent"])
    def test_a_collector_that_takes_nothing_does_no_harm(
        self, fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        # Until then a connection that is refused is tried again, and nothing said.
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1" if fault == "dead" else "3600")
        with Receiver(status=400 if fault == "refusing" else 200, is_silent=fault == "silent") as receiver:
            endpoint = "http://127.0.0.1:9" if fault == "dead" else receiver.url
            with caplog.at_level(logging.WARNING), serving(endpoint) as client:
                for _ in range(20):
                    assert client.post(CHAT, json=chat({"tokens": 2})).status_code == 200
                    time.sleep(0.02)
                if fault != "silent":
                    wait_until(lambda: "takes no traces" in caplog.text)
            assert not receiver.released.is_set()
            assert receiver.bodies == []
        lines = [record for record in caplog.records if "takes no traces" in record.getMessage()]
        assert len(lines) <= 1 if fault == "silent" else len(lines) == 1
        assert [record for record in caplog.records if record.exc_info or record.name.startswith("opentelemetry")] == []

    def test_one_that_comes_back_is_told_what_comes_then(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        # A connection that breaks is tried again later and later, for as long as this.
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
        with Receiver(status=400) as receiver, serving(receiver) as client:
            wait_until(lambda: client.get("/health").is_success and f"{receiver.url} takes no traces" in caplog.text)
            receiver.status = 200
            wait_until(lambda: client.get("/health").is_success and f"{receiver.url} takes traces again" in caplog.text)
            wait_until(lambda: client.get("/health").is_success and receiver.spans)

    def test_sigterm_sends_what_is_left_and_a_silent_collector_holds_nothing_up(self) -> None:
        for is_silent in (False, True):
            with Receiver(is_silent=is_silent) as receiver:
                process = start_serve("--otlp-endpoint", receiver.url)
                assert process.stderr is not None
                line = next(line for line in process.stderr if " on http" in line)
                (url,) = re.findall(r"on (http://\S+)", line)
                assert httpx.get(f"{url}/health", trust_env=False).status_code == 200
                process.send_signal(signal.SIGTERM)
                _, errors = process.communicate(timeout=PATIENCE)
                assert process.returncode == 0, errors
                assert [one.name for one in receiver.spans] == ([] if is_silent else ["GET /health"])
                assert "Traceback" not in errors


def start_serve(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-m", "llcuda", "serve", "-m", "demo", "--port", "0", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    # A package that is found first, and cannot be imported from.
    (tmp_path / "opentelemetry.py").write_text("raise ModuleNotFoundError(name='opentelemetry')\n")
    process = subprocess.run(
        [sys.executable, "-m", "llcuda", "serve", "-m", "demo", "--port", "0", "--otlp-endpoint", "http://127.0.0.1:9"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert process.returncode == UsageError.exit_code
    assert "pip install 'llcuda[telemetry]'" in process.stderr
    assert "Traceback" not in process.stderr


def test_opentelemetry_is_not_loaded_where_no_collector_is_named() -> None:
    program = (
        "import sys; from llcuda.gateway.gateway import Gateway;"
        "from llcuda.gateway.relay.service import GatewayService;"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize("endpoint", ["collector:4318", "grpc://h:4317", "http://u:secret@h:4318", "http://h/?k=secret"])
def test_an_address_that_is_none_is_refused_and_not_repeated(endpoint: str) -> None:
    with pytest.raises(UsageError, match="otlp_endpoint") as caught:
        read_config({"model": ["demo"], "otlp_endpoint": endpoint}, environment={})
    assert "secret" not in str(caught.value)
