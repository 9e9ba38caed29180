"""The parts of an answer that a client asks for by their names."""

from __future__ import annotations

import json

from llcuda.gateway.dialects.answer_parts import choose_parts

ANSWER = {"content": "4", "timings": {"prompt_n": 3}, "list": [1], "stop": False}


def test_only_what_is_named_is_left_by_the_name_it_was_asked_by() -> None:
    wanted = ["content", "timings/prompt_n", "timings/nothing", "list/0", "stop/x", "nothing", "stop"]
    chosen = {"content": "4", "timings/prompt_n": 3, "stop": False}
    assert json.loads(choose_parts(json.dumps(ANSWER).encode(), wanted)) == chosen
    assert json.loads(choose_parts(json.dumps([ANSWER, ANSWER]).encode(), wanted)) == [chosen, chosen]
