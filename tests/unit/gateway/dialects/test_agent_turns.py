"""Turns of Claude Code and Codex that chat templates do not take as they come."""

from __future__ import annotations

from typing import Any

import pytest

from llcuda.gateway.dialects.agent_turns import change_turns

ASKED = {"role": "user", "content": "2+2?"}
SAID = {"role": "assistant", "content": "4"}
RULE = {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


@pytest.mark.parametrize(
    ("turns", "wanted"),
    [
        ([ASKED, SAID, ASKED], None),
        ([ASKED, {"role": "system", "content": "Now."}], [{"role": "user", "content": [text("2+2?"), text("Now.")]}]),
        (
            [ASKED, SAID, {"role": "system", "content": [text("Now.")]}, ASKED],
            [ASKED, SAID, {"role": "user", "content": [text("Now."), text("2+2?")]}],
        ),
    ],
)
def test_the_system_speaks_in_between_as_the_user(turns: Any, wanted: Any) -> None:
    changes = {} if wanted is None else {"messages": wanted}
    assert change_turns("messages", {"messages": turns}) == changes
    assert change_turns("chat", {"messages": turns}) == {}


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"input": "x"}, {}),
        ({"input": [ASKED]}, {}),
        ({"input": [RULE, ASKED]}, {}),
        ({"input": [RULE]}, {}),
        ({"input": [RULE, RULE, ASKED]}, {"instructions": "Be brief.\n\nBe brief.", "input": [ASKED]}),
        ({"instructions": "Be.", "input": [RULE, ASKED]}, {"instructions": "Be.\n\nBe brief.", "input": [ASKED]}),
        ({"input": [ASKED, {"type": "reasoning", "summary": [], "content": None}]}, {"input": [ASKED]}),
        ({"input": [ASKED, SAID]}, {"input": [ASKED, {**SAID, "type": "message"}]}),
        ({"input": [ASKED, {**SAID, "type": "message"}]}, {}),
        ({"input": [{**RULE, "content": [{"type": "input_image", "image_url": "data:"}]}, RULE, ASKED]}, {}),
        ({"input": [{**RULE, "content": 1}, RULE, ASKED]}, {}),
    ],
)
def test_the_developers_first_words_are_instructions(fields: Any, wanted: Any) -> None:
    assert change_turns("responses", fields) == wanted
