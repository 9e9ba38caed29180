"""The events of OpenAI's streams, written anew."""

from __future__ import annotations

import pytest

from llcuda.gateway.dialects.openai_answers import OpenaiAnswer, OpenaiEvents


@pytest.mark.parametrize(
    "event",
    [b"data: {", b'data: {"choices": 1}', b'data: {"choices":[{"logprobs":{"content":[{}]},"index":0}]}', b"data: [1]"],
)
def test_an_event_that_is_not_llama_servers_is_passed_on_as_it_is(event: bytes) -> None:
    events = OpenaiEvents(OpenaiAnswer("completions", {"logprobs": 1, "stream": True}))
    assert events.feed(event + b"\n\n", is_last=False) == event + b"\n\n"
