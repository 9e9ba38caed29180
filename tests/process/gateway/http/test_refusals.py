"""Hundreds of refusals of each kind, over HTTP and gRPC: nothing of them is left, before garbage is looked for."""

from __future__ import annotations

import gc
import json
import socket
import threading
from contextlib import ExitStack, contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from llcuda.fleet.refusals import RefusedError
from llcuda.gateway import GatewayConfig, KeyConfig, Limits, ModelConfig
from llcuda.gateway.gateway import Gateway
from llcuda.gateway.grpc.llcuda_pb2 import BatchRequest, ChatRequest
from llcuda.gateway.http.exchange import Exchange
from tests.inputs.hostile_requests import HOST, KEY, QUESTION, head, post
from tests.standins.stub_engine import write_executable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COUNT = 400
AT_A_TIME = 50
BODY_BYTES = 16 << 10
HELD = (Exchange, RefusedError, TracebackType, FrameType)
"""What holds a body, or leads to one."""
OURS = (Exchange, RefusedError)
"""The same, but for what gRPC's client, in this process, makes of an error."""
BULK = {"x" * BODY_BYTES: 1}
GET = "GET {} HTTP/1.1"
KINDS: dict[str, tuple[bytes, int]] = {
    "no HTTP": (b"\x16\x03\x01\r\n\r\n", 400),
    "no host": (head(request=GET.format("/v1/models"), host=""), 400),
    "a host of another": (head(request=GET.format("/health"), host="Host: evil.example"), 421),
    "a page of another": (head("Origin: http://evil.example", request=GET.format("/health")), 403),
    "no key": (head(request=GET.format("/v1/models")).replace(KEY.encode(), b""), 401),
    "a wrong key": (head(request=GET.format("/v1/models")).replace(KEY.encode(), b"wrong"), 401),
    "a wrong key and a body": (post(QUESTION | BULK).replace(KEY.encode(), b"wrong"), 401),
    "no administrator": (post({}, path="/api/admin/reload"), 403),
    "no such address": (head(request=GET.format("/nothing")), 404),
    "no such method": (head(request=GET.format("/v1/chat/completions")), 405),
    "a target too long": (head(request=GET.format("/" + "a" * 2000)), 414),
    "a head too large": (head("X: " + "y" * 40_000, request=GET.format("/health")), 431),
    "a length of too many digits": (head("Content-Length: " + "0" * 5000 + "2") + b"{}", 400),
    "a body too large": (head("Content-Type: application/json", "Content-Length: 99999999"), 413),
    "a body of another type": (post(QUESTION | BULK, kind="Content-Type: text/plain"), 415),
    "a coding that is not known": (head("Transfer-Encoding: gzip, chunked"), 501),
    "no JSON": (post(b"[" + b"1," * (BODY_BYTES // 2)), 400),
    "a field that is misspelt": (post(QUESTION | BULK | {"temprature": 1}), 400),
    "a field of another type": (post(QUESTION | {"max_tokens": "x" * BODY_BYTES}), 400),
    "no such model": (post({"messages": [{"role": "user", "content": "x" * BODY_BYTES}], "model": "none"}), 404),
    "no number of seconds": (post(QUESTION, "X-Request-Timeout: soon"), 400),
    "too many at once": (post(QUESTION).replace(KEY.encode(), b"sk-none-at-once-0123456789"), 429),
}
KEYS = (
    KeyConfig("user", KEY),
    KeyConfig("none", "sk-none-at-once-0123456789", max_in_flight=0),
    KeyConfig("root", "sk-root-0123456789abcdef", is_admin=True),
)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Gateway]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMA_SERVER_PATH", str(write_executable(tmp_path_factory.mktemp("stub") / "llama-server")))
        models = (ModelConfig("stub", str(tiny_model)),)
        config = GatewayConfig(models, port=0, grpc_port=0, keys=KEYS, limits=Limits(max_header_bytes=8 << 10))
        with Gateway(config) as running:
            yield running


@contextmanager
def without_collections() -> Iterator[None]:
    """Let what is only free after a look for cycles count as held."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def count_held(kinds: tuple[type, ...] = HELD) -> int:
    return sum(isinstance(one, kinds) for one in gc.get_objects())


def refuse_over_http(gateway: Gateway, request: bytes, status: int) -> None:
    """Send requests on connections of their own, so many at a time, and see all of them refused."""
    data = request.replace(HOST, f"127.0.0.1:{gateway.port}".encode())
    with ExitStack() as stack:
        address = ("127.0.0.1", gateway.port)
        connections = [stack.enter_context(socket.create_connection(address, timeout=120)) for _ in range(AT_A_TIME)]
        for connection in connections:
            connection.sendall(data)
        for connection in connections:
            assert int(connection.recv(65536).split(b" ", 2)[1]) == status


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_of_what_was_refused_over_http(gateway: Gateway, kind: str) -> None:
    request, status = KINDS[kind]
    refuse_over_http(gateway, request, status)
    with without_collections():
        before = count_held()
        for _ in range(COUNT // AT_A_TIME):
            refuse_over_http(gateway, request, status)
        await_few(before)


def await_few(before: int, kinds: tuple[type, ...] = HELD) -> None:
    """Wait until as many are held as before, but for what the last of them may still be in the midst of."""
    moment = threading.Event()
    for _ in range(1200):
        if count_held(kinds) <= before + AT_A_TIME:
            return
        moment.wait(0.1)
    pytest.fail(f"{count_held(kinds) - before} objects of {COUNT} refusals are still held")


def chat(content: str = "Hi", **fields: Any) -> Any:
    return ChatRequest(messages=[{"role": "user", "content": content}], **fields)


CALLS: dict[str, tuple[str, Any, str]] = {
    "a wrong key": ("Chat", chat("x" * BODY_BYTES), "wrong"),
    "no such model": ("Chat", chat("x" * BODY_BYTES, model="nothing"), KEY),
    "a stream of no such model": ("StreamChat", chat("x" * BODY_BYTES, model="nothing"), KEY),
    "too many items": ("Batch", BatchRequest(items=[{}] * 4097), KEY),
}


@pytest.mark.parametrize("kind", CALLS)
def test_nothing_is_left_of_what_was_refused_over_grpc(gateway: Gateway, kind: str) -> None:
    method, request, key = CALLS[kind]
    with grpc.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel, without_collections():
        name = f"/llcuda.v1.Inference/{method}"
        make_call = channel.unary_stream(name, request_serializer=type(request).SerializeToString)
        before = 0
        for number in range(COUNT // 4 + 4):
            if number == 4:
                before = count_held(OURS)
            call = make_call(request, metadata=(("authorization", f"Bearer {key}"),))
            with pytest.raises(grpc.RpcError) as caught:
                list(call)
            assert caught.value.code() in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.NOT_FOUND,
                                           grpc.StatusCode.INVALID_ARGUMENT}  # fmt: skip
        await_few(before, OURS)


def test_what_was_refused_says_the_same_without_what_it_was_raised_through() -> None:
    with pytest.raises(RefusedError) as caught:
        refuse()
    facts = caught.value.without_frames()
    assert facts.__traceback__ is None
    assert facts.__context__ is None
    assert json.loads(facts.envelope()) == json.loads(caught.value.envelope())
    assert (facts.status, facts.headers, facts.close) == (429, {"Retry-After": "1"}, True)


def refuse() -> None:
    raise RefusedError(429, "too many", code="c", param="p", headers={"Retry-After": "1"}, close=True)
