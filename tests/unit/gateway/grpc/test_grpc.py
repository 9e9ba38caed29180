"""What the binary protocol makes of requests and refusals, and how it holds a worker back."""

from __future__ import annotations

import asyncio
import json
import runpy
import shutil
from typing import TYPE_CHECKING

import grpc
import pytest

from llcuda.client.answers import ChatAnswer
from llcuda.errors import UsageError
from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.grpc import llcuda_pb2
from llcuda.gateway.grpc.grpc_call import CallExchange
from llcuda.gateway.grpc.grpc_translation import make_body, read_error, read_whole, to_status, trailing_metadata
from llcuda.gateway.grpc.llcuda_pb2 import CompletionRequest

if TYPE_CHECKING:
    from pathlib import Path


class Source:
    def __init__(self) -> None:
        self.is_paused = False

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False


def test_a_source_waits_while_much_is_held() -> None:
    async def run() -> None:
        exchange, source = CallExchange("/completion", headers={}), Source()
        exchange.follow(source)
        exchange.write(bytes(60_000))
        waited = [source.is_paused]
        exchange.write(bytes(60_000), is_last=True)
        waited.append(source.is_paused)
        task = asyncio.create_task(asyncio.sleep(0))
        assert [len(piece) async for piece in exchange.pieces(task)] == [60_000, 60_000]
        assert [*waited, source.is_paused] == [False, True, False]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("http", "expected"),
    [(400, "INVALID_ARGUMENT"), (401, "UNAUTHENTICATED"), (403, "PERMISSION_DENIED"), (404, "NOT_FOUND"),
     (413, "INVALID_ARGUMENT"), (429, "RESOURCE_EXHAUSTED"), (499, "CANCELLED"), (500, "INTERNAL"),
     (501, "UNIMPLEMENTED"), (502, "INTERNAL"), (503, "UNAVAILABLE"), (504, "DEADLINE_EXCEEDED")],
)  # fmt: skip
def test_every_status_has_its_own(http: int, expected: str) -> None:
    assert to_status(http) is grpc.StatusCode[expected]


def test_a_refusal_says_its_code_and_when_to_come_again() -> None:
    error = RefusedError(429, "full", code="queue_full", headers={"Retry-After": "3", "Allow": "POST"})
    assert trailing_metadata(error) == (("llcuda-code", "queue_full"), ("retry-after", "3"))


def test_only_what_was_set_is_asked_for_and_whole_numbers_stay_whole() -> None:
    sampling = {"temperature": 0, "stop": ["x"], "options": {"mirostat": 2, "ignore_eos": True, "min_p": 0.5}}
    request = CompletionRequest(prompt="p", sampling=sampling)
    body = json.loads(make_body(request, streams=False))
    assert body == {"mirostat": 2, "ignore_eos": True, "min_p": 0.5, "temperature": 0, "stop": ["x"], "prompt": "p"}
    assert json.loads(make_body(request, streams=True)) == {**body, "stream": True}
    assert type(body["mirostat"]) is int


def test_an_option_that_the_protocol_has_no_place_for_is_refused() -> None:
    request = CompletionRequest(prompt="p", sampling={"options": {"n_probs": 3}})
    with pytest.raises(RefusedError, match="n_probs"):
        make_body(request, streams=False)


def test_a_whole_chat_is_read_as_a_stream_is() -> None:
    message = {"role": "assistant", "content": "4", "reasoning_content": "2+2"}
    usage = {"prompt_tokens": 5, "completion_tokens": 2}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage, "model": "demo"}
    answer = ChatAnswer(started=0.0, schema=None)
    read_whole(answer, json.dumps(body).encode())
    result = answer.result()
    assert (result.text, result.reasoning, result.finish_reason) == ("4", "2+2", "stop")
    assert (result.prompt_tokens, result.tokens_generated) == (5, 2)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"choices": [{}]}', b'{"error": {"message": "no"}}'])
def test_a_whole_answer_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(RefusedError, match="not understood") as caught:
        read_whole(ChatAnswer(started=0.0, schema=None), body)
    assert (caught.value.status, caught.value.code) == (502, "bad_answer")


def test_an_error_of_a_worker_keeps_its_words() -> None:
    error = read_error(400, b'{"error": {"code": 400, "message": "too long", "type": "exceed_context_size_error"}}')
    assert (error.status, error.message, error.code) == (400, "too long", "exceed_context_size_error")


@pytest.mark.parametrize("body", [b"", b"x", b"null", b"[]", b'{"error": "x"}', b'{"error": {}}', b"[" * 100_000])
def test_an_error_of_any_shape_is_a_refusal(body: bytes) -> None:
    error = read_error(502, body)
    assert (error.status, error.code) == (502, "worker_failed")


def test_a_descriptor_that_was_not_compiled_says_how(tmp_path: Path) -> None:
    module = shutil.copy(llcuda_pb2.__file__, str(tmp_path))
    with pytest.raises(UsageError) as caught:
        runpy.run_path(module)
    assert "tools.binaries.protocol" in caught.value.hint
