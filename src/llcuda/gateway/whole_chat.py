"""Put the chunks of a chat together into the answer that llama-server gives when it does not stream.

One class for each API: ``add`` takes the JSON of an event and returns how many characters it kept, ``finished`` tells
whether the server has said that everything is there, ``build`` returns the answer.
"""

from __future__ import annotations

from io import StringIO
from typing import Any

from llcuda.gateway.whole_texts import measure

__all__ = ["ChatAnswer"]

_TEXTS = ("content", "reasoning_content", "refusal")


class _ChatChoice:
    """One of the choices of a chat while it comes."""

    __slots__ = ("end", "finish_reason", "logprobs", "texts", "timings", "tool_calls", "usage")

    def __init__(self) -> None:
        self.texts: dict[str, StringIO] = {}
        self.tool_calls: dict[int, _ToolCall] = {}
        self.logprobs: list[Any] = []
        self.finish_reason: str | None = None
        self.end: dict[str, Any] = {}
        self.timings: dict[str, Any] | None = None
        self.usage: dict[str, Any] | None = None

    def add(self, choice: dict[str, Any]) -> int:
        delta, kept = choice["delta"], 0
        for name in _TEXTS:
            if delta.get(name):
                kept += self.texts.setdefault(name, StringIO()).write(delta[name])
        for part in delta.get("tool_calls") or ():
            kept += self.tool_calls.setdefault(part["index"], _ToolCall()).add(part)
        if choice.get("logprobs"):
            entries = choice["logprobs"]["content"]
            self.logprobs += entries
            kept += measure(entries)
        if choice["finish_reason"] is not None:
            self.finish_reason = choice["finish_reason"]
        return kept

    def build(self, index: int) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": ""}
        message.update((name, text.getvalue()) for name, text in self.texts.items())
        if self.tool_calls:
            message["tool_calls"] = [call.build() for _, call in sorted(self.tool_calls.items())]
        choice = {"finish_reason": self.finish_reason, "index": index, "message": message}
        return {**choice, "logprobs": {"content": self.logprobs}} if self.logprobs else choice


class _ToolCall:
    """One call of a tool: its id and name come once, its arguments in pieces."""

    __slots__ = ("arguments", "id", "name")

    def __init__(self) -> None:
        self.id = self.name = ""
        self.arguments = StringIO()

    def add(self, part: dict[str, Any]) -> int:
        function = part.get("function") or {}
        self.id = part.get("id") or self.id
        self.name = function.get("name") or self.name
        return self.arguments.write(function.get("arguments") or "")

    def build(self) -> dict[str, Any]:
        call = {"type": "function", "function": {"name": self.name, "arguments": self.arguments.getvalue()}}
        return {**call, "id": self.id} if self.id else call


class ChatAnswer:
    """The answer of ``/v1/chat/completions``.

    The counts of all choices but the first are left out, as llama-server leaves them out.
    """

    __slots__ = ("_choices", "_expected", "_last")

    def __init__(self, expected: int) -> None:
        """Wait for so many choices."""
        self._expected = expected
        self._choices: dict[int, _ChatChoice] = {}
        self._last = _ChatChoice()

    @property
    def finished(self) -> bool:
        """Tell whether the counts of every choice have come, which are the last of it."""
        return sum(choice.usage is not None for choice in self._choices.values()) >= self._expected

    def add(self, data: dict[str, Any]) -> int:
        """Take a chunk. One without choices has the counts of the choice before it."""
        kept = 0
        for choice in data["choices"]:
            index = choice["index"]
            if index not in self._choices:
                self._choices[index] = _ChatChoice()
            self._last = self._choices[index]
            kept += self._last.add(choice)
        if data.get("usage"):
            self._last.usage, self._last.end = data["usage"], data
        if "timings" in data:
            self._last.timings = data["timings"]
        return kept

    def find_text(self, data: dict[str, Any]) -> tuple[str, StringIO] | None:
        """Return the text of a chunk that was added and where it is kept, None for one with anything else."""
        if len(data["choices"]) != 1 or data.get("usage") or "timings" in data:
            return None
        choice = data["choices"][0]
        if choice["delta"].keys() != {"content"} or choice["finish_reason"] is not None or choice.get("logprobs"):
            return None
        text = choice["delta"]["content"]
        return (text, self._choices[choice["index"]].texts["content"]) if text else None

    def build(self) -> dict[str, Any]:
        """Return the answer."""
        choices = [choice.build(index) for index, choice in sorted(self._choices.items())]
        first = self._choices[min(self._choices)]
        answer = {**first.end, "choices": choices, "object": "chat.completion", "usage": first.usage}
        return answer if first.timings is None else {**answer, "timings": first.timings}
