"""The parts of a whole answer that a client wants: llama-server would leave out how it ended, and its counts."""

from __future__ import annotations

import json
from functools import reduce
from typing import Any

__all__ = ["choose_parts"]


def choose_parts(body: bytes, wanted: list[str]) -> bytes:
    """Return an answer, or each of a list, with the parts that ``wanted`` names alone: ``timings/prompt_n`` for one."""
    answer = json.loads(body)
    chosen = [_choose(one, wanted) for one in answer] if type(answer) is list else _choose(answer, wanted)
    return json.dumps(chosen, ensure_ascii=False).encode()


def _choose(answer: dict[str, Any], wanted: list[str]) -> dict[str, Any]:
    found = {name: reduce(_look_into, name.split("/"), answer) for name in wanted}
    return {name: value for name, value in found.items() if value is not _NOTHING}


_NOTHING: Any = object()


def _look_into(value: Any, name: str) -> Any:
    return value.get(name, _NOTHING) if type(value) is dict else _NOTHING
