"""Put the events of a stream together into the answer that llama-server gives when it does not stream.

One class for each API: ``add`` takes the JSON of an event and returns how many characters it kept, ``finished`` tells
whether the server has said that everything is there, ``build`` returns the answer.
"""

from __future__ import annotations

import json
from io import StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ChatAnswer", "CompletionsAnswer", "MessagesAnswer", "NativeAnswer", "ResponsesAnswer"]

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
            kept += _measure(entries)
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

    def build(self) -> dict[str, Any]:
        """Return the answer."""
        choices = [choice.build(index) for index, choice in sorted(self._choices.items())]
        first = self._choices[min(self._choices)]
        answer = {**first.end, "choices": choices, "object": "chat.completion", "usage": first.usage}
        return answer if first.timings is None else {**answer, "timings": first.timings}


class _Texts:
    """The texts, probabilities and last events of an answer's parts, by their indexes."""

    __slots__ = ("ends", "probabilities", "texts")

    def __init__(self) -> None:
        self.texts: dict[int, StringIO] = {}
        self.probabilities: dict[int, list[Any]] = {}
        self.ends: dict[int, dict[str, Any]] = {}

    def add(self, index: int, text: str, entries: Iterable[Any]) -> int:
        kept = self.texts.setdefault(index, StringIO()).write(text)
        entries = list(entries)
        if entries:
            self.probabilities.setdefault(index, []).extend(entries)
        return kept + _measure(entries)

    def end(self, index: int, data: dict[str, Any]) -> int:
        self.ends[index] = data
        return _measure([data])


class CompletionsAnswer:
    """The answer of ``/v1/completions``."""

    __slots__ = ("_expected", "_parts")

    def __init__(self, expected: int) -> None:
        """Wait for so many choices."""
        self._expected = expected
        self._parts = _Texts()

    @property
    def finished(self) -> bool:
        """Tell whether every choice has ended."""
        return len(self._parts.ends) >= self._expected

    def add(self, data: dict[str, Any]) -> int:
        """Take a chunk, which has one choice."""
        choice = data["choices"][0]
        entries = (choice.get("logprobs") or {}).get("content") or ()
        kept = self._parts.add(choice["index"], choice["text"], entries)
        return kept if choice["finish_reason"] is None else kept + self._parts.end(choice["index"], data)

    def build(self) -> dict[str, Any]:
        """Return the answer; the counts are those of the first choice, as llama-server does it."""
        ends = sorted(self._parts.ends.items())
        return {**ends[0][1], "choices": [self._build_choice(index, end["choices"][0]) for index, end in ends]}

    def _build_choice(self, index: int, choice: dict[str, Any]) -> dict[str, Any]:
        entries = self._parts.probabilities.get(index)
        return {
            **choice,
            "text": self._parts.texts[index].getvalue(),
            "logprobs": {"content": entries} if entries else None,
        }


class NativeAnswer:
    """The answer of ``/completion`` and ``/infill``: an object, or a list of them for several prompts or choices."""

    __slots__ = ("_expected", "_parts")

    def __init__(self, expected: int) -> None:
        """Wait for so many answers."""
        self._expected = expected
        self._parts = _Texts()

    @property
    def finished(self) -> bool:
        """Tell whether every answer has ended."""
        return len(self._parts.ends) >= self._expected

    def add(self, data: dict[str, Any]) -> int:
        """Take an event; those about the progress of the prompt have no text."""
        index = data["index"]
        kept = self._parts.add(index, data["content"], data.get("completion_probabilities") or ())
        return kept + self._parts.end(index, data) if data["stop"] else kept

    def build(self) -> dict[str, Any] | list[dict[str, Any]]:
        """Return the answer."""
        answers = [self._build_one(index, end) for index, end in sorted(self._parts.ends.items())]
        return answers[0] if len(answers) == 1 else answers

    def _build_one(self, index: int, end: dict[str, Any]) -> dict[str, Any]:
        answer = {**end, "content": self._parts.texts[index].getvalue()}
        if "generation_settings" in answer:
            answer["generation_settings"] = {**answer["generation_settings"], "stream": False}
        if index in self._parts.probabilities:
            answer["completion_probabilities"] = self._parts.probabilities[index]
        return answer


class ResponsesAnswer:
    """The answer of ``/v1/responses``, all of which is in the last event."""

    __slots__ = ("_response",)

    def __init__(self, _expected: int) -> None:
        """Wait for the response."""
        self._response: dict[str, Any] | None = None

    @property
    def finished(self) -> bool:
        """Tell whether it has come."""
        return self._response is not None

    def add(self, data: dict[str, Any]) -> int:
        """Take an event."""
        if data["type"] != "response.completed":
            return 0
        self._response = data["response"]
        return _measure([self._response])

    def build(self) -> dict[str, Any]:
        """Return the answer, with the two things that are not in the event."""
        response: dict[str, Any] = self._response or {}
        output = [{"status": "completed", **item} for item in response["output"]]
        return {"completed_at": response["created_at"], **response, "output": output}


class MessagesAnswer:
    """The answer of ``/v1/messages``.

    Where the first token is part of a character, llama-server leaves ``message_start`` out, and with it the id, the
    model and the counts of the prompt: the id is then a fixed one, and the others are empty and zero.
    """

    __slots__ = ("_end", "_message", "_stopped", "_text", "_thinking", "_tools")

    def __init__(self, _expected: int) -> None:
        """Wait for the message."""
        self._message: dict[str, Any] = {
            "id": "msg_unknown", "type": "message", "role": "assistant", "model": "",
            "usage": {"cache_read_input_tokens": 0, "input_tokens": 0},
        }  # fmt: skip
        self._text, self._thinking = StringIO(), StringIO()
        self._tools: dict[int, _ToolUse] = {}
        self._end: dict[str, Any] = {}
        self._stopped = False

    @property
    def finished(self) -> bool:
        """Tell whether the message has stopped."""
        return self._stopped

    def add(self, data: dict[str, Any]) -> int:
        """Take an event."""
        kind = data["type"]
        if kind == "content_block_delta":
            return self._add_delta(data["index"], data["delta"])
        if kind == "content_block_start" and data["content_block"]["type"] == "tool_use":
            # It comes again with the last event, for a call that has begun long before.
            self._tools.setdefault(data["index"], _ToolUse(data["content_block"]))
        elif kind == "message_start":
            self._message = data["message"]
        elif kind == "message_delta":
            self._end = data
        elif kind == "message_stop":
            self._stopped = True
        return 0

    def _add_delta(self, index: int, delta: dict[str, Any]) -> int:
        kind = delta["type"]
        if kind == "text_delta":
            return self._text.write(delta["text"])
        if kind == "thinking_delta":
            return self._thinking.write(delta["thinking"])
        if kind == "input_json_delta":
            return self._tools[index].arguments.write(delta["partial_json"])
        return 0

    def build(self) -> dict[str, Any]:
        """Return the answer."""
        content: list[dict[str, Any]] = []
        if self._thinking.tell():
            content.append({"type": "thinking", "thinking": self._thinking.getvalue(), "signature": ""})
        if self._text.tell():
            content.append({"type": "text", "text": self._text.getvalue()})
        content += [tool.build() for _, tool in sorted(self._tools.items())]
        usage = {**self._message["usage"], **self._end["usage"]}
        return {**self._message, **self._end["delta"], "content": content, "usage": usage}


class _ToolUse:
    """One use of a tool."""

    __slots__ = ("arguments", "block")

    def __init__(self, block: dict[str, Any]) -> None:
        self.block = block
        self.arguments = StringIO()

    def build(self) -> dict[str, Any]:
        """Return the block; arguments that are not JSON become an empty object, as llama-server does it."""
        try:
            value = json.loads(self.arguments.getvalue())
        except (ValueError, RecursionError):
            value = {}
        return {**self.block, "input": value}


def _measure(entries: list[Any]) -> int:
    """Return about how many characters it takes to write some JSON."""
    return sum(len(str(entry)) for entry in entries)
