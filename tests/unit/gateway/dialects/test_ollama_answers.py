"""llama-server's answers in Ollama's words, for what the demo model does not say by itself."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llcuda.gateway.dialects.event_writer import NOT_UNDERSTOOD
from llcuda.gateway.dialects.ollama_answers import OllamaAnswer, OllamaStream

TIMINGS = {"cache_n": 1, "prompt_n": 2, "prompt_ms": 3.0, "predicted_n": 4, "predicted_ms": 5.0}


def chunk(delta: dict[str, Any], *, reason: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return f"data: {json.dumps({'choices': [choice], **more})}\n\n".encode()


def read(stream: bytes, *, size: int, endpoint: str = "ollama_chat") -> list[dict[str, Any]]:
    events = OllamaStream(OllamaAnswer(endpoint, "demo"))
    starts = range(0, len(stream), size)
    lines = b"".join(events.feed(stream[at : at + size], is_last=at == starts[-1]) for at in starts)
    return [json.loads(line) for line in lines.splitlines()]


DONE = b"data: [DONE]\n\n"
CALL = [{"index": 0, "id": "1", "type": "function", "function": {"name": "f", "arguments": ""}}]
STREAM = b"".join([
    b": a comment\n\n",
    chunk({"role": "assistant", "content": None}),
    chunk({"reasoning_content": "So."}),
    chunk({"content": "é"}),
    chunk({"tool_calls": CALL}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}),
    chunk({}, reason="tool_calls", timings=TIMINGS),
    DONE,
])  # fmt: skip


@pytest.mark.parametrize("size", [1, 7, 100, 1 << 20])
def test_a_stream_is_one_object_a_line_however_it_is_cut(size: int) -> None:
    thought, said, called, last = read(STREAM, size=size)
    assert thought["message"] == {"role": "assistant", "content": "", "thinking": "So."}
    assert said["message"]["content"] == "é"
    assert called["message"]["tool_calls"] == [{"function": {"name": "f", "arguments": {"a": 1}}}]
    assert (last["done"], last["done_reason"], last["message"]["content"]) == (True, "stop", "")
    assert (last["prompt_eval_count"], last["eval_count"], last["eval_duration"]) == (3, 4, 5_000_000)


def test_a_stream_that_breaks_off_before_its_end_is_not_done() -> None:
    assert not any(line["done"] for line in read(STREAM.removesuffix(DONE), size=1 << 20))


def test_a_call_that_was_cut_off_is_a_text() -> None:
    cut = [{"index": 0, "function": {"name": "f", "arguments": '{"a'}}]
    text, last = read(chunk({"tool_calls": cut}) + chunk({}, reason="length", timings=TIMINGS) + DONE, size=1 << 20)
    assert (text["message"], last["done_reason"]) == ({"role": "assistant", "content": '{"a'}, "length")


def test_an_error_ends_a_stream() -> None:
    assert read(b'data: {"error":{"message":"no"}}\n\n', size=1 << 20) == [{"error": "no"}]
    assert read(b"data: {oops\n\n", size=1 << 20) == [{"error": "the worker's answer is not understood"}]


@pytest.mark.parametrize("body", [b"x", b"[]", b"{}", b'{"choices":[]}', b'{"data":[{}]}'])
def test_an_answer_that_is_not_understood_is_no_answer(body: bytes) -> None:
    with pytest.raises(NOT_UNDERSTOOD):
        OllamaAnswer("ollama_chat", "demo").write(body)
