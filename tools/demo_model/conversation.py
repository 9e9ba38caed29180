"""README: turns a conversation into the text that the chat template makes, marking what the model must learn to say."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Turn:
    """Hold one message; `given` is a prefix of an answer that is imposed, not learnt."""

    role: str
    content: str
    given: str = ""
    learn: bool = True


@dataclass(frozen=True, slots=True)
class Conversation:
    """Hold the turns in order and the tools offered, in the OpenAI layout."""

    turns: tuple[Turn, ...]
    tools: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Raw:
    """Hold a text to continue outside any chat template."""

    prompt: str
    completion: str
    tools: tuple[dict[str, Any], ...] = field(default=())


def encode_json(value: object) -> str:
    """Write JSON the way llama.cpp's template engine does."""
    return json.dumps(value, ensure_ascii=False)


def _tool_section(tools: tuple[dict[str, Any], ...], system: str) -> str:
    lines = "".join(f"{encode_json(tool)}\n" for tool in tools)
    return f"<|im_start|>system\n{system}{chr(10) if system else ''}Tools:\n{lines}<|im_end|>\n"


def split_segments(example: Conversation | Raw) -> Iterator[tuple[str, bool]]:
    """Yield pieces of text in order, each with whether the model is trained to say it."""
    if isinstance(example, Raw):
        yield example.prompt, False
        yield f"{example.completion}<|im_end|>", True
        return
    turns = example.turns
    if example.tools:
        system = turns[0].content if turns[0].role == "system" else ""
        turns = turns[1:] if system else turns
        yield _tool_section(example.tools, system), False
    for turn in turns:
        if turn.role != "assistant":
            yield f"<|im_start|>{turn.role}\n{turn.content}<|im_end|>\n", False
            continue
        yield "<|im_start|>assistant\n", False
        given = turn.given.lstrip()
        # Apart, because a grammar lets white space through one token at a time.
        yield from ((space, False) for space in turn.given[: len(turn.given) - len(given)])
        yield given, False
        yield f"{turn.content[len(turn.given) :]}<|im_end|>", turn.learn
        yield "\n", False


def render_text(example: Conversation | Raw) -> str:
    """Return the whole text of an example."""
    return "".join(text for text, _ in split_segments(example))
