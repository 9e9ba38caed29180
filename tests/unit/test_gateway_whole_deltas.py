"""Events that are read by comparing them: whatever is not the same around its text is left to the JSON reader."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llcuda.gateway.whole import WholeAnswer
from llcuda.gateway.whole_deltas import TextEvents


def chunk(text: str, *, created: int = 1, **delta: Any) -> dict[str, Any]:
    choice = {"finish_reason": None, "index": 0, "delta": {"content": text, **delta}}
    return {"choices": [choice], "created": created, "id": "x", "object": "chat.completion.chunk"}


def write(data: dict[str, Any]) -> bytes:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()


def learn(text: str) -> tuple[TextEvents, StringIO]:
    events, kept = TextEvents(), StringIO()
    events.learn(write(chunk(text)), b"content", text=text, kept=kept)
    return events, kept


@pytest.mark.parametrize("text", ["b", " longer than the first", "é", "data: x", "}", ","])
def test_an_event_with_another_text_is_taken(text: str) -> None:
    events, kept = learn("a")
    assert events.take(write(chunk(text))) == len(text)
    assert kept.getvalue() == text


@pytest.mark.parametrize(
    "event",
    [
        write(chunk("b", created=2)),
        write(chunk("b", role="assistant")),
        write(chunk('a quote: "')),
        write(chunk("a line\n")),
        write(chunk("")),
        b'{"choices":[{"finish_reason":null,"index":0,"delta":{"content":"',
        b"[DONE]",
        b"",
    ],
)
def test_every_other_event_is_left(event: bytes) -> None:
    events, kept = learn("a")
    assert events.take(event) == 0
    assert kept.getvalue() == ""


@pytest.mark.parametrize(
    ("first", "text"), [(chunk("a\n"), "a\n"), (chunk("a", more={"content": "a"}), "a"), ({"content": ["a"]}, "a")]
)
def test_what_cannot_be_told_apart_is_not_learned(first: dict[str, Any], text: str) -> None:
    events = TextEvents()
    events.learn(write(first), b"content", text=text, kept=StringIO())
    assert events.take(write(first)) == 0


@given(st.lists(st.text(max_size=6), min_size=1, max_size=12), st.booleans())
def test_the_answer_is_that_of_reading_every_event(texts: list[str], ascii_only: bool) -> None:  # noqa: FBT001
    end = {"choices": [{"finish_reason": "stop", "index": 0, "delta": {}}], "id": "x"}
    usage = {"choices": [], "id": "x", "usage": {"completion_tokens": len(texts)}}
    answer = WholeAnswer("chat", {})
    chunks = [chunk(text, created=1 + number // 5) for number, text in enumerate(texts)]
    for number, data in enumerate([*chunks, end, usage]):
        encoded = json.dumps(data, separators=(",", ":"), ensure_ascii=ascii_only or number % 2 == 0)
        answer.feed(b"data: " + encoded.encode() + b"\n\n")
    assert json.loads(answer.result())["choices"][0]["message"]["content"] == "".join(texts)
