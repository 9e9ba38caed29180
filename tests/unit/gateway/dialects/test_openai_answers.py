"""Answers of OpenAI's API and of llama-server's, written anew."""

from __future__ import annotations

import json

import pytest

from llcuda.gateway.dialects.openai_answers import ProbabilityEvents, find_writer


@pytest.mark.parametrize(
    "event",
    [b"data: {", b'data: {"choices": 1}', b'data: {"choices":[{"logprobs":{"content":[{}]},"index":0}]}', b"data: [1]"],
)
def test_an_event_that_is_not_llama_servers_is_passed_on_as_it_is(event: bytes) -> None:
    assert ProbabilityEvents().feed(event + b"\n\n", is_last=False) == event + b"\n\n"


def test_the_parts_that_are_wanted_are_found_wherever_they_are_in_an_answer_or_a_list() -> None:
    wanted = ["content", "timings/prompt_n", "timings/none", "content/x", "no"]
    write = find_writer("infill", {"response_fields": wanted})
    assert write is not None
    answer = {"content": "é", "stop": True, "timings": {"prompt_n": 3, "prompt_ms": 1.0}}
    chosen = {"content": "é", "timings/prompt_n": 3}
    assert json.loads(write(json.dumps(answer).encode())) == chosen
    assert json.loads(write(json.dumps([answer, {}]).encode())) == [chosen, {}]
