"""The events of the Responses API get the numbers that OpenAI's clients put an answer together by."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llcuda.gateway.dialects.response_events import ResponseEvents, mark_incomplete


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def item(name: str) -> dict[str, Any]:
    return {"id": name, "content": []}


STREAM = [
    event("response.created", response={"id": "resp", "status": "in_progress"}),
    event("response.in_progress", response={"id": "resp"}),
    event("response.output_item.added", item=item("rs")),
    event("response.reasoning_text.delta", item_id="rs", delta="é"),
    event("response.output_item.added", item=item("msg")),
    event("response.content_part.added", item_id="msg", part={"text": ""}),
    event("response.output_text.delta", item_id="msg", delta="4"),
    event("response.output_item.added", item=item("fc")),
    event("response.function_call_arguments.delta", item_id="fc", delta="{}"),
    event("response.output_item.done", item=item("rs")),
    event("response.output_item.done", item=item("fc")),
    event("response.completed", response={"id": "resp", "output": [1]}),
]


def read(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(part.partition(b"\ndata: ")[2]) for part in data.split(b"\n\n") if part]


def feed(stream: bytes, *, size: int, limit: int | None = None) -> bytes:
    events = ResponseEvents("demo", limit=limit)
    events._facts["created_at"] = 1
    starts = range(0, len(stream), size)
    return b"".join(events.feed(stream[at : at + size], is_last=at == starts[-1]) for at in starts)


def test_every_event_has_its_number_and_its_place() -> None:
    events = read(feed(b"".join(STREAM), size=1 << 20))
    assert [one["sequence_number"] for one in events] == list(range(len(STREAM)))
    assert [one.get("output_index") for one in events] == [None, None, 0, 0, 1, 1, 1, 2, 2, 0, 2, None]
    assert [at for at, one in enumerate(events) if "content_index" in one] == [3, 5, 6]
    facts = {"created_at": 1, "model": "demo", "output": []}
    assert events[0]["response"] == {"id": "resp", "status": "in_progress", **facts}
    assert events[-1]["response"] == {"id": "resp", "output": [1]}
    assert events[3]["delta"] == "é"


@pytest.mark.parametrize("size", [1, 3, 50, 200])
def test_it_is_the_same_however_the_stream_is_cut(size: int) -> None:
    stream = b"".join(STREAM)
    assert feed(stream, size=size) == feed(stream, size=len(stream))


@pytest.mark.parametrize(
    "other",
    [
        b":\n\n",
        b'event: error\ndata: {"type":"error","message":"no"}\n\n',
        b'data: {"error":{"message":"no"}}\n\n',
        b"event: response.created\ndata: {oops\n\n",
        b"event: response.created\ndata: [1]\n\n",
        b'event: response.created\ndata: {"type":"response.created","response":null}\n\n',
        b'event: response.output_item.added\ndata: {"type":"response.output_item.added","item":{"id":[]}}\n\n',
    ],
)
def test_what_is_not_understood_is_passed_on_as_it_came(other: bytes) -> None:
    assert feed(STREAM[2] + other + STREAM[3], size=1 << 20).count(other) == 1


def test_nothing_is_held_back_at_the_end() -> None:
    rest = b"event: response.x\nda"
    assert ResponseEvents("demo").feed(STREAM[0] + rest, is_last=True).endswith(rest)


@pytest.mark.parametrize(("limit", "is_cut"), [(None, False), (-1, False), (8, False), (7, True), (0, True)])
def test_what_was_cut_off_is_incomplete_whole_and_streamed(limit: int | None, *, is_cut: bool) -> None:
    answer = {"status": "completed", "output": [{"type": "message"}], "usage": {"output_tokens": 7}}
    whole = json.loads(mark_incomplete(json.dumps(answer).encode(), limit=limit))
    stream = feed(event("response.completed", response=answer), size=1 << 20, limit=limit)
    (streamed,) = read(stream)
    assert streamed["response"] == whole
    assert streamed["type"] == ("response.incomplete" if is_cut else "response.completed")
    assert stream.startswith(f"event: {streamed['type']}\n".encode())
    item = {"type": "message", "status": "incomplete"}
    cut = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": [item]}
    assert whole == {**answer, **(cut if is_cut else {})}
