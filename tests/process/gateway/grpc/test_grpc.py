"""The binary protocol of a whole gateway with the demo model."""

from __future__ import annotations

import json
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from llcuda.gateway import GatewayConfig, KeyConfig, Limits, ModelConfig
from llcuda.gateway.gateway import Gateway
from llcuda.gateway.grpc.llcuda_pb2 import DESCRIPTOR
from tests.processes import wait_until
from tests.standins.stub_engine import write_executable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "sk-user"
SERVICE = DESCRIPTOR.services_by_name["Inference"]
LONG = {"max_tokens": 900, "temperature": 0, "options": {"ignore_eos": True}}


def serve(**options: Any) -> Gateway:
    models = options.pop("models", (ModelConfig("demo", "demo", slots=2),))
    return Gateway(GatewayConfig(models=models, port=0, grpc_port=0, **options))


def call(channel: grpc.Channel, name: str, *, key: str | None = KEY, timeout: float = 60, **fields: Any) -> Any:
    method = SERVICE.methods_by_name[name]
    streams = name.startswith("Stream") or name == "Batch"
    begin = channel.unary_stream if streams else channel.unary_unary
    function = begin(
        f"/{SERVICE.full_name}/{name}",
        request_serializer=GetMessageClass(method.input_type).SerializeToString,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    metadata = (("authorization", f"Bearer {key}"),) if key else ()
    return function(GetMessageClass(method.input_type)(**fields), metadata=metadata, timeout=timeout)


def chat(**sampling: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "What is 2+2?"}], "sampling": {"temperature": 0, **sampling}}


def number_format(**more: int) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"answer": {"type": "integer", **more}}, "required": ["answer"]}
    return {"type": "json_schema", "json_schema": {"schema": {**schema, "additionalProperties": False}}}


def busy(gateway: Gateway) -> int:
    assert gateway._running is not None
    return sum(worker.busy for worker in gateway._running.models["demo"].workers)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    log = tmp_path_factory.mktemp("audit") / "log"
    with serve(keys=(KeyConfig("user", KEY),), audit_log=log, limits=Limits(max_queued=2)) as running:
        yield running


@pytest.fixture(scope="module")
def channel(gateway: Gateway) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as opened:
        yield opened


@pytest.fixture(scope="module")
def gateways() -> Iterator[Gateway]:
    models = ModelConfig("small", "demo", slots=1), ModelConfig("large", "demo", slots=3, on_demand=True)
    with serve(models=models) as running:
        yield running


def test_a_chat_says_the_same_whole_in_a_stream_and_over_http(gateway: Gateway, channel: grpc.Channel) -> None:
    whole = call(channel, "Chat", **chat())
    assert whole.text == "2 + 2 = 4."
    assert (whole.finish_reason, whole.model, whole.completion_tokens > 3) == ("stop", "demo", True)
    chunks = list(call(channel, "StreamChat", **chat()))
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert len(chunks) > 5
    assert chunks[-1].end.completion_tokens == whole.completion_tokens
    body = {"messages": [{"role": "user", "content": "What is 2+2?"}], "temperature": 0}
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers, trust_env=False)
    assert answer.json()["choices"][0]["message"]["content"] == whole.text


def test_a_completion_stops_at_its_limit(channel: grpc.Channel) -> None:
    whole = call(channel, "Complete", prompt="What is 2+2?", sampling={**LONG, "max_tokens": 5})
    assert (whole.finish_reason, whole.completion_tokens) == ("length", 5)


def test_a_batch_has_an_answer_or_an_error_for_each_item(channel: grpc.Channel) -> None:
    items = [{"chat": chat()}, {"chat": chat(temperature=-5)}, {}, {"complete": {"prompt": "x", "sampling": LONG}}]
    items[3]["complete"]["sampling"] = {"max_tokens": 3, "options": {"ignore_eos": True}}
    answers = {item.index: item for item in call(channel, "Batch", items=items, concurrency=2)}
    assert sorted(answers) == [0, 1, 2, 3]
    assert answers[0].answer.text == "2 + 2 = 4."
    assert (answers[1].error.http_status, answers[1].error.code) == (400, "invalid_value")
    assert answers[2].error.http_status == 400
    assert answers[3].answer.completion_tokens == 3


def test_a_whole_answer_that_does_not_hold_to_its_schema_is_no_answer(channel: grpc.Channel) -> None:
    # llama-server's grammar leaves out of account what a number is to be a multiple of.
    asked = chat(max_tokens=60, options={"response_format": number_format(multipleOf=997)})
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, "Chat", **asked)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "does not hold to the schema" in caught.value.details()
    assert dict(caught.value.trailing_metadata())["llcuda-code"] == "schema_mismatch"
    (item,) = call(channel, "Batch", items=[{"chat": asked}])
    assert (item.error.http_status, item.error.code) == (502, "schema_mismatch")
    held = call(channel, "Chat", **chat(max_tokens=60, options={"response_format": number_format()}))
    assert json.loads(held.text).keys() == {"answer"}


def test_a_stream_that_does_not_hold_to_its_schema_ends_with_an_error(channel: grpc.Channel) -> None:
    twice = {"type": "array", "items": {"const": 1}, "minItems": 2, "maxItems": 2, "uniqueItems": True}
    wanted = {"type": "json_schema", "json_schema": {"schema": twice}}
    with pytest.raises(grpc.RpcError) as caught:
        list(call(channel, "StreamChat", **chat(options={"response_format": wanted}, max_tokens=80)))
    assert caught.value.details() == "the answer does not hold to the schema: $: an item is there twice"
    assert dict(caught.value.trailing_metadata())["llcuda-code"] == "schema_mismatch"


@pytest.mark.parametrize("named", ["small", "", "large"])
def test_a_batch_fills_the_slots_of_the_models_that_it_names(gateways: Gateway, named: str) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{gateways.grpc_port}") as channel:
        items = [{"complete": {"prompt": "x", "sampling": LONG, "model": named or None}} for _ in range(6)]
        stream = call(channel, "Batch", key=None, items=items)
        running = gateways._running
        assert running is not None
        model = running.models[named or "small"]
        most = {"small": 1, "large": 3}[model.name]
        wait_until(lambda: sum(worker.busy for worker in model.workers) == most)
        assert not model.admission.waiting
        stream.cancel()
        wait_until(lambda: not model.is_busy)


@pytest.mark.parametrize("key", [None, "sk-wrong"])
def test_a_call_without_the_key_is_refused(channel: grpc.Channel, key: str | None) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, "ListModels", key=key)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_models_are_listed(channel: grpc.Channel) -> None:
    assert list(call(channel, "ListModels").models) == ["demo"]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({**chat(), "model": "other"}, grpc.StatusCode.NOT_FOUND),
        (chat(top_p=7), grpc.StatusCode.INVALID_ARGUMENT),
        (chat(options={"stream": False}), grpc.StatusCode.INVALID_ARGUMENT),
        (chat(options={"slot_save": 1}), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_what_cannot_be_answered_has_its_status(channel: grpc.Channel, *, fields: Any, code: grpc.StatusCode) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, "Chat", **fields)
    assert caught.value.code() is code
    assert caught.value.details()


def test_a_cancelled_call_and_a_deadline_free_the_slot(gateway: Gateway, channel: grpc.Channel) -> None:
    stream = call(channel, "StreamComplete", prompt="x", sampling=LONG)
    next(stream)
    assert busy(gateway) == 1
    stream.cancel()
    wait_until(lambda: busy(gateway) == 0)
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, "Complete", prompt="x", sampling=LONG, timeout=0.03)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: busy(gateway) == 0)


def test_what_the_queue_does_not_take_says_when_to_come_again(gateway: Gateway, channel: grpc.Channel) -> None:
    def ask(_: int) -> tuple[grpc.StatusCode, dict[str, str]]:
        try:
            call(channel, "Complete", prompt="x", sampling={**LONG, "max_tokens": 300})
        except grpc.RpcError as error:
            return error.code(), dict(error.trailing_metadata())
        return grpc.StatusCode.OK, {}

    with ThreadPoolExecutor(24) as pool:
        outcomes = list(pool.map(ask, range(24)))
    codes = {code for code, _ in outcomes}
    assert codes == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    refused = [metadata for code, metadata in outcomes if code is grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert all(int(metadata["retry-after"]) >= 1 for metadata in refused)
    wait_until(lambda: busy(gateway) == 0)


def test_a_caller_that_does_not_read_holds_its_worker_back_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_SERVER_PATH", str(write_executable(tmp_path / "llama-server")))
    text, tokens = "x" * 8192, 6000
    wishes = json.dumps({"tokens": tokens, "token_ms": 0.5, "text": text})
    with serve() as gateway, grpc.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel:
        stream = call(channel, "StreamComplete", key=None, prompt=wishes)
        pieces = [next(stream).text]
        assert gateway._running is not None
        assert gateway._running.grpc is not None
        (exchange,) = gateway._running.grpc._tasks.values()
        passed = [0, exchange.bytes_out]
        while passed[-1] != passed[-2] or not exchange._is_waiting:  # gRPC's own window takes some MiB first
            time.sleep(0.5)
            passed.append(exchange.bytes_out)
        assert passed[-1] < tokens * len(text) // 2
        assert exchange._held_bytes < 1 << 20
        pieces += [chunk.text for chunk in stream]
    assert "".join(pieces) == tokens * text


def test_calls_are_in_the_audit_log(gateway: Gateway, channel: grpc.Channel) -> None:
    call(channel, "ListModels")
    path: Path | None = gateway.config.audit_log
    assert path is not None
    wait_until(lambda: '"path":"/v1/models"' in path.read_text())
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert {"key": "user", "method": "GRPC", "status": 200}.items() <= records[-1].items()


def test_reflection_and_health_need_no_key(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert SERVICE.full_name in database.get_services()
    names = [method.name for method in DescriptorPool(database).FindServiceByName(SERVICE.full_name).methods]
    assert names == [method.name for method in SERVICE.methods]
    stub = health_pb2_grpc.HealthStub(channel)
    for service in ("", SERVICE.full_name):
        asked = health_pb2.HealthCheckRequest(service=service)
        assert stub.Check(asked).status == health_pb2.HealthCheckResponse.SERVING


def test_what_has_begun_ends_before_the_gateway_does() -> None:
    with serve() as gateway, grpc.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel:
        stream = call(channel, "StreamComplete", prompt="x", sampling={**LONG, "max_tokens": 200})
        next(stream)
        with ThreadPoolExecutor(1) as pool:
            stopping = pool.submit(gateway.stop)
            chunks = list(stream)
            stopping.result()
    assert chunks[-1].end.completion_tokens == 200


def test_embeddings_come_as_numbers() -> None:
    model = ModelConfig("demo", "demo", server_options={"embeddings": True})
    with serve(models=(model,)) as gateway, grpc.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel:
        answer = call(channel, "Embed", input=["a", "b"])
    assert [len(one.values) > 8 for one in answer.embeddings] == [True, True]


def fail(channel: grpc.Channel, method: str, data: bytes, *, streams: bool) -> Any:
    """Send bytes as they are, and return what the call fails with."""
    begin = channel.unary_stream if streams else channel.unary_unary
    function = begin(method, request_serializer=bytes, response_deserializer=bytes)
    with pytest.raises(grpc.RpcError) as caught:
        list(function(data, metadata=(("authorization", f"Bearer {KEY}"),), timeout=60))
    return caught.value


METHODS = [(f"/{SERVICE.full_name}/{method.name}", method.server_streaming) for method in SERVICE.methods]
METHODS += [("/grpc.health.v1.Health/Check", False), ("/grpc.health.v1.Health/Watch", True)]


@pytest.mark.parametrize(("method", "streams"), METHODS)
def test_bytes_that_are_no_message_are_told_so_in_a_sentence(
    channel: grpc.Channel, method: str, *, streams: bool
) -> None:
    for data in (b"\xff" * 9, b"\x0a\xff\xff\xff\xff\x0f", b"\xff" * 70_000):
        error = fail(channel, method, data, streams=streams)
        assert (error.code(), error.details()) == (
            grpc.StatusCode.INVALID_ARGUMENT, "the bytes of the request are no message of this method's type",
        )  # fmt: skip


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": math.nan}, {"top_p": math.inf}, {"temperature": -math.inf}, {"options": {"min_p": math.nan}},
        {"options": {"min_p": math.inf}}, {"options": {"seed": 1.7e308}}, {"max_tokens": -(2**31)}, {"top_k": -7},
        {"stop": ["x"] * 5000}, {"stop": ["x"] * 100_000},
        {"options": {"n_keep": 2.5}}, {"options": {"json_schema": {"$dynamicRef": "#a"}}},
        {"options": {"grammar": "a?" * 5000}},
        {"options": {str(place): 1 for place in range(5000)}},
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["Complete", "StreamChat", "Batch"])
def test_what_no_field_may_hold_is_an_invalid_argument(
    channel: grpc.Channel, name: str, sampling: dict[str, Any]
) -> None:
    fields: dict[str, Any] = {"prompt": "x", "sampling": sampling} if name == "Complete" else chat(**sampling)
    if name == "Batch":
        (item,) = call(channel, name, items=[{"chat": fields}])
        assert item.error.http_status == 400
        return
    with pytest.raises(grpc.RpcError) as caught:
        list(call(channel, name, **fields))
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not set(error.details()) & set("<>")
    assert "Error" not in error.details()


def test_an_empty_item_and_thousands_of_inputs_are_refused(channel: grpc.Channel) -> None:
    (item,) = call(channel, "Batch", items=[{}])
    assert item.error.http_status == 400
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, "Embed", input=[""] * 1_000_000)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_failure_of_the_gateways_own_says_nothing_of_python(
    channel: grpc.Channel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("llcuda.gateway.grpc.grpc_server.make_answer", lambda *_, **__: os.environ["SECRET"])
    for name in ("Chat", "StreamChat", "Batch"):
        fields: dict[str, Any] = {"items": [{"chat": chat()}]} if name == "Batch" else chat()
        with pytest.raises(grpc.RpcError) as caught:
            list(call(channel, name, **fields))
        error: Any = caught.value
        assert (error.code(), error.details()) == (
            grpc.StatusCode.INTERNAL, "the gateway failed at this call; its log says why",
        )  # fmt: skip
    assert caplog.text.count("KeyError: 'SECRET'") == 3
