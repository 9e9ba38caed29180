"""Put the named events of Responses and Messages together into the answers that llama-server gives without a stream.

One class for each API: ``add`` takes the JSON of an event and returns how many characters it kept, ``finished`` tells
whether the server has said that everything is there, ``build`` returns the answer.
"""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

from llcuda.gateway.whole_texts import measure

__all__ = ["MessagesAnswer", "ResponsesAnswer"]


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
        return measure([self._response])

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
