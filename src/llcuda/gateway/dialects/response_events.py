"""Answers of the Responses API and their events, as OpenAI's own clients read them.

llama-server leaves out where in the answer an event belongs. The official client puts the answer together by these
numbers, and without them its ``responses.stream`` fails at the first event. It leaves out which model answers since
when, which other clients ask for, and it calls completed what was cut off.
"""

from __future__ import annotations

import json
import time
from typing import Any

from llcuda.gateway.dialects.event_writer import NOT_UNDERSTOOD, EventWriter

__all__ = ["ResponseEvents", "mark_incomplete"]

_OURS = b"event: response."
_DATA = b"\ndata: "
_BEGINNINGS = ("response.created", "response.in_progress")
_END, _CUT = "response.completed", "response.incomplete"
_OPENING = "response.output_item.added"
# Kinds of events about a part of an item; an item has one part here.
_PARTS = ("response.content_part.", "response.output_text.", "response.reasoning_text.")


class ResponseEvents(EventWriter):
    """Numbers the events of one stream, and says which item of the answer each is about."""

    def __init__(self, model: str, *, limit: int | None = None) -> None:
        """Prepare to number what ``model`` answers in at most ``limit`` tokens."""
        super().__init__()
        self._facts = {"created_at": int(time.time()), "model": model, "output": []}
        self._limit = limit
        self._count = 0
        self._items: dict[str, int] = {}

    def write(self, event: bytes) -> bytes:
        """Return the event with its number and its place."""
        return super().write(self._complete(event))

    def _complete(self, event: bytes) -> bytes:
        head, mark, text = event.partition(_DATA)
        if not mark or not head.startswith(_OURS):
            return event
        try:
            data = json.loads(text)
            data |= self._locate(data)
            if data["type"] == _END and _cut_off(data["response"], self._limit):
                data["type"] = _CUT
                head = b"event: " + _CUT.encode()
        except NOT_UNDERSTOOD:
            return event  # not for us to judge
        return head + mark + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()

    def _locate(self, data: dict[str, Any]) -> dict[str, Any]:
        kind: str = data["type"]
        more: dict[str, Any] = {"sequence_number": self._count}
        self._count += 1
        if kind in _BEGINNINGS:
            more["response"] = {**self._facts, **data["response"]}
        item: str = data["item"]["id"] if "item" in data else data.get("item_id", "")
        if kind == _OPENING:
            self._items.setdefault(item, len(self._items))
        if item in self._items:
            more["output_index"] = self._items[item]
        if kind.startswith(_PARTS):
            more["content_index"] = 0
        return more


def mark_incomplete(body: bytes, *, limit: int | None) -> bytes:
    """Return a whole answer, which says so if it was cut off at ``limit`` tokens."""
    try:
        answer = json.loads(body)
        return json.dumps(answer, ensure_ascii=False).encode() if _cut_off(answer, limit) else body
    except NOT_UNDERSTOOD:
        return body  # not for us to judge


def _cut_off(answer: dict[str, Any], limit: int | None) -> bool:
    """Make an answer that has as many tokens as it may have an incomplete one, and tell whether it is."""
    if limit is None or not 0 <= limit <= answer["usage"]["output_tokens"]:
        return False
    answer |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    for item in answer["output"][-1:]:
        item["status"] = "incomplete"
    return True
