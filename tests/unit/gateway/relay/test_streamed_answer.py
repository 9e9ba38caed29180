from __future__ import annotations

import json
from typing import Any

import pytest

from llcuda.fleet.dispatch.upstream import PlainAnswer
from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.dialects.event_writer import EventWriter
from llcuda.gateway.dialects.ollama_answers import OllamaAnswer, OllamaStream
from llcuda.gateway.observe.gateway_metrics import GatewayMetrics
from llcuda.gateway.relay.streamed_answer import StreamedAnswer, find_figures, read_prompt_seconds, read_usage

HEADERS = {"content-type": "text/event-stream"}
LONG = "x" * 40_000


class Written:
    """Takes the place of an exchange."""

    def __init__(self) -> None:
        self.data = b""
        self.ended = False

    def start_stream(self, status: int, content_type: str) -> None:
        assert (status, content_type) in {(200, "text/event-stream"), (200, "application/x-ndjson")}

    def write(self, data: bytes, *, is_last: bool = False) -> None:
        self.data += data
        self.ended = is_last


def event(data: Any, name: str = "") -> bytes:
    named = f"event: {name}\n" if name else ""
    return f"{named}data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


CHAT = event({"choices": [{"delta": {"content": "data: [DONE]"}}]})
CHAT += event({"usage": {"completion_tokens": 7, "prompt_tokens": 3}})
NATIVE = event({"content": '"stop":true', "stop": False})
NATIVE_END = event({"content": "", "stop": True, "tokens_predicted": 7, "tokens_evaluated": 3, "prompt": LONG})
RESPONSES = event({"response": {"error": None}}, "response.created")
RESPONSES_END = event(
    {"type": "response.completed", "response": {"output": LONG, "usage": {"input_tokens": 3, "output_tokens": 7}}},
    "response.completed",
)
MESSAGES = event({"usage": {"input_tokens": 3, "output_tokens": 0}}, "message_start")
MESSAGES_END = event({"usage": {"output_tokens": 7}}, "message_delta") + event({"type": "message_stop"}, "message_stop")

WHOLE: list[tuple[str, int, bytes, bytes]] = [
    ("chat", 1, CHAT, b"data: [DONE]\n\n"),
    ("completions", 1, CHAT, b"data: [DONE]\n\n"),
    ("completion", 1, NATIVE, NATIVE_END),
    ("infill", 1, NATIVE, NATIVE_END),
    ("completion", 2, NATIVE + NATIVE_END, NATIVE_END),
    ("responses", 1, RESPONSES, RESPONSES_END),
    ("messages", 1, MESSAGES, MESSAGES_END),
]


def receive(endpoint: str, texts: int, stream: bytes, *, size: int) -> tuple[StreamedAnswer, Written]:
    written: Any = Written()
    answer = StreamedAnswer(written, endpoint, GatewayMetrics().intervals, texts=texts)
    answer.on_head(200, HEADERS)
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    for number, piece in enumerate(pieces):
        answer.on_body(piece, is_last=number == len(pieces) - 1)
    return answer, written


@pytest.mark.parametrize("size", [1, 7, 100, 4096, 1 << 20])
@pytest.mark.parametrize(("endpoint", "texts", "begin", "end"), WHOLE)
def test_a_stream_is_complete_at_its_own_end_however_long_that_is_and_however_it_is_cut(
    *, endpoint: str, texts: int, begin: bytes, end: bytes, size: int
) -> None:
    answer, written = receive(endpoint, texts, begin + end, size=size)
    assert answer.is_complete
    assert (written.data, written.ended) == (begin + end, True)
    cut, written = receive(endpoint, texts, begin, size=size)
    assert not cut.is_complete
    assert (written.data, written.ended) == (begin, False)


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize(
    ("endpoint", "begin", "error"),
    [
        ("chat", CHAT, event({"error": {"message": "x"}})),
        ("completion", NATIVE, event({"error": {"message": "x"}})),
        ("responses", RESPONSES, event({"error": {"message": "x"}})),
        ("messages", MESSAGES, event({"message": "x"}, "error")),
    ],
)
def test_a_worker_that_reports_an_error_has_ended_its_stream(
    *, endpoint: str, begin: bytes, error: bytes, size: int
) -> None:
    assert receive(endpoint, 1, begin + error, size=size)[0].is_complete
    assert receive(endpoint, 1, error, size=size)[0].is_complete


@pytest.mark.parametrize(("endpoint", "texts", "begin", "end"), [row for row in WHOLE if row[1] == 1])
def test_the_end_of_a_stream_says_what_it_took(*, endpoint: str, texts: int, begin: bytes, end: bytes) -> None:
    assert receive(endpoint, texts, begin + end, size=1 << 20)[0].usage == (3, 7)


def test_a_stream_that_was_not_asked_for_its_usage_is_counted_by_its_timings() -> None:
    timings = {"cache_n": 12, "prompt_n": 3, "prompt_ms": 1.3, "predicted_n": 9, "predicted_ms": 2.3}
    end = event({"choices": [{"delta": {}, "finish_reason": "stop"}], "timings": timings}) + b"data: [DONE]\n\n"
    assert read_usage(end) == (15, 9)
    # What the answer says of it itself comes first, and text is no figure.
    assert read_usage(event({"usage": {"completion_tokens": 7, "prompt_tokens": 3}, "timings": timings})) == (3, 7)
    assert read_usage(event({"choices": [{"delta": {"content": json.dumps({"timings": timings})}}]})) == (0, 0)


TIMINGS = {"cache_n": 1, "prompt_n": 2, "prompt_ms": 1500.0, "predicted_n": 7, "predicted_ms": 2.3}
USAGE = {"completion_tokens": 7, "prompt_tokens": 3}
NAMES = {"prompt_tokens": 99, "usage": {"input_tokens": 99}, "timings": {**TIMINGS, "prompt_ms": 9.0}}
NATIVE_WHOLE = {"index": 0, "content": LONG, "tokens_predicted": 7, "tokens_evaluated": 3, "prompt": LONG}
PROBABILITIES = [{"token": "prompt_tokens"}] * 4000
FIGURES: dict[str, tuple[Any, int, float | None]] = {
    "chat": ({"choices": [{"text": LONG + json.dumps(NAMES)}], "usage": USAGE, "timings": TIMINGS}, 7, 1.5),
    "without times": ({"choices": [{"text": LONG}], "usage": USAGE}, 7, None),
    "times alone": ({**NATIVE_WHOLE, "timings": TIMINGS}, 7, 1.5),
    "short": ({"usage": USAGE, "timings": {**TIMINGS, "prompt_ms": 1e-05}}, 7, 1e-8),
    "probabilities": ({**NATIVE_WHOLE, "timings": TIMINGS, "completion_probabilities": PROBABILITIES}, 7, 1.5),
    "several": ([{**NATIVE_WHOLE, "timings": TIMINGS, "completion_probabilities": PROBABILITIES}] * 2, 7, 1.5),
    "embeddings": ({"object": "list", "usage": {"prompt_tokens": 3}, "data": [LONG]}, 0, None),
    "messages": (
        {"content": [{"input": {"input_tokens": 99}}, LONG], "usage": {"input_tokens": 3, "output_tokens": 7}}, 7, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("size", [1000, 1 << 20])
@pytest.mark.parametrize("name", FIGURES)
def test_a_whole_answer_says_what_it_took_and_how_long_its_prompt_was_read(name: str, size: int) -> None:
    data, completion, seconds = FIGURES[name]
    body = json.dumps(data, separators=(",", ":")).encode()
    answer = PlainAnswer()
    for at in range(0, len(body), size):
        answer.on_body(body[at : at + size], is_last=at + size >= len(body))
    assert answer.body == body
    figures = find_figures(body)
    assert len(figures) < 3000
    assert read_usage(figures) == (3, completion)
    assert read_prompt_seconds(figures) == (seconds if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    "body", [b"", b"x" * 5000, b'{"index":0,"content":' * 500, b'"timings":{"prompt_ms":x}', b'"prompt_tokens":-1']
)
def test_an_answer_that_says_nothing_of_it_took_nothing(body: bytes) -> None:
    figures = find_figures(body)
    assert (read_usage(figures), read_prompt_seconds(figures)) == ((0, 0), None)


def test_a_number_of_very_many_digits_is_no_failure_of_the_gateway() -> None:
    digits = "9" * 5000
    assert read_usage(f'"prompt_tokens":{digits}'.encode())[0] == 10**18 - 1
    assert read_usage(f'"timings":{{"cache_n":{digits},"prompt_n":1,"predicted_n":1'.encode()) == (0, 0)
    assert read_prompt_seconds(f'"timings":{{"prompt_ms":{digits}'.encode()) == float("inf")


@pytest.mark.parametrize("size", [1, 7, 60, 1 << 20])
@pytest.mark.parametrize("is_ollama", [False, True])
def test_of_a_stream_that_is_checked_the_end_is_held_however_it_is_cut(*, size: int, is_ollama: bool) -> None:
    written: Any = Written()
    events = OllamaStream(OllamaAnswer("ollama_chat", "demo")) if is_ollama else EventWriter()
    answer = StreamedAnswer(written, "chat", GatewayMetrics().intervals, is_checked=True, events=events)
    answer.on_head(200, HEADERS)
    text = {"choices": [{"delta": {"content": "4"}, "finish_reason": None}]}
    last = {"choices": [{"delta": {}, "finish_reason": "stop"}], "timings": TIMINGS}
    stream = event(text) + event(last) + b"data: [DONE]\n\n"
    for at in range(0, len(stream), size):
        answer.on_body(stream[at : at + size], is_last=at + size >= len(stream))
    assert answer.is_held
    assert not written.ended
    assert (b'"done":true' if is_ollama else b"[DONE]") in answer.end
    assert (b'"done":true' if is_ollama else b"[DONE]") not in written.data


def test_of_a_stream_that_is_checked_no_more_is_kept_than_of_a_whole_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llcuda.fleet.dispatch.upstream._MAX_PLAIN_BYTES", 100)
    written: Any = Written()
    answer = StreamedAnswer(written, "chat", GatewayMetrics().intervals, is_checked=True)
    answer.on_head(200, HEADERS)
    answer.on_body(b"data: " + 94 * b"x", is_last=False)
    with pytest.raises(RefusedError, match="larger than 100 bytes"):
        answer.on_body(b"x", is_last=False)
