"""Tell whether a regular expression of a client can be tried on a text in time that grows with the text alone."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from typing import Any, NamedTuple

__all__ = ["MAX_STEPS", "Steps", "StepsSpentError", "is_quick"]

MAX_POSITIONS = 1000
"""Characters of an expression once its repetitions are written out."""
MAX_STEPS = 100_000
"""Steps that all the patterns of one schema may take together, 0.1 to 0.3 us each: 64 like a UUID's take 63,000."""
_STEPS_PER_CHARACTER = 8
_STEPS_PER_POSITION = 10
_ASCII = 128
_OTHER = 1 << _ASCII
_EVERY = (1 << (_ASCII + 1)) - 1

_parser: Any = import_module("re._parser" if sys.version_info >= (3, 11) else "sre_parse")
_CATEGORIES = {
    "CATEGORY_DIGIT": sum(1 << code for code in range(_ASCII) if chr(code).isdecimal()) | _OTHER,
    "CATEGORY_SPACE": sum(1 << code for code in range(_ASCII) if chr(code).isspace()) | _OTHER,
    "CATEGORY_WORD": sum(1 << code for code in range(_ASCII) if chr(code).isalnum() or chr(code) == "_") | _OTHER,
}


class _SlowError(Exception):
    """More than one way to go on, or something that is not looked into."""


class StepsSpentError(Exception):
    """The steps did not suffice to tell."""


class Steps:
    """The steps that are left for looking into patterns."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        """Have all that a schema has."""
        self.left = MAX_STEPS

    def take(self, count: int) -> None:
        """Take some. Raises StepsSpentError if there are not enough."""
        self.left -= count
        if self.left < 0:
            raise StepsSpentError


class _Part(NamedTuple):
    """Of a part of an expression: whether it takes the empty text, the characters it begins with, where it can end."""

    is_empty: bool
    first: int
    """The characters as bits; no two positions that it can begin with share one."""
    last: list[int]
    """The positions."""


_EMPTY = _Part(is_empty=True, first=0, last=[])


def is_quick(pattern: str, steps: Steps | None = None) -> bool:
    """Tell whether a pattern is anchored at both ends, and the next character always settles how it goes on.

    Then there is nothing to go back to: ``re`` takes a time that grows with the text, where ``^(a+)+$`` doubles it with
    every character. References back, looking ahead and behind, and flags are not quick. llama-server can generate by
    no pattern without both anchors either. Raises StepsSpentError where ``steps`` do not suffice.
    """
    steps = steps or Steps()
    steps.take(_STEPS_PER_CHARACTER * len(pattern))
    try:
        parsed = _parser.parse(pattern)
        begin, *inner, end = parsed
        _Expression(steps).join(inner)
    except (_SlowError, RecursionError, OverflowError, ValueError, re.error):
        return False
    anchors = (str(begin[1]), str(end[1]))
    return anchors == ("AT_BEGINNING", "AT_END") and parsed.state.flags == re.UNICODE


class _Expression:
    """Of each position of an expression, the characters that can come after it, as bits (Glushkov)."""

    def __init__(self, steps: Steps) -> None:
        self.follow: list[int] = []
        self.steps = steps

    def join(self, nodes: Any) -> _Part:
        """Add parts that come one after the other."""
        whole = _EMPTY
        for code, argument in nodes:
            whole = self._append(whole, self._add(str(code), argument))
        return whole

    def _append(self, before: _Part, after: _Part) -> _Part:
        self._connect(before.last, after.first)
        return _Part(
            is_empty=before.is_empty and after.is_empty,
            first=_unite(before.first, after.first) if before.is_empty else before.first,
            last=before.last + after.last if after.is_empty else after.last,
        )

    def _connect(self, before: list[int], after: int) -> None:
        """Let characters come after positions. What could already come after them could then come in two ways."""
        self.steps.take(1 + len(before))
        for position in before:
            self.follow[position] = _unite(self.follow[position], after)

    def _add(self, code: str, argument: Any) -> _Part:
        if code in {"LITERAL", "NOT_LITERAL", "ANY", "IN"}:
            return self._add_position(_read_characters(code, argument))
        if code == "SUBPATTERN" and not argument[1] and not argument[2]:
            return self.join(argument[3])
        if code == "BRANCH":
            parts = [self.join(nodes) for nodes in argument[1]]
            whole = parts[0]
            for part in parts[1:]:
                whole = _Part(
                    is_empty=whole.is_empty or part.is_empty,
                    first=_unite(whole.first, part.first),
                    last=whole.last + part.last,
                )
            return whole
        if code in {"MAX_REPEAT", "MIN_REPEAT"}:
            return self._repeat(*argument)
        raise _SlowError

    def _repeat(self, low: int, high: int, nodes: Any) -> _Part:
        """Write a repetition out: what must be there, then what may be there, then the loop if there is no end."""
        is_endless = high == _parser.MAXREPEAT
        whole = _EMPTY
        for _ in range(int(low)):
            whole = self._append(whole, self._take(nodes))
        if is_endless:
            loop = self._take(nodes)
            self._connect(loop.last, loop.first)
            return self._append(whole, loop._replace(is_empty=True))
        optional = _EMPTY
        for _ in range(int(high) - int(low)):
            optional = self._append(self._take(nodes), optional)._replace(is_empty=True)
        return self._append(whole, optional)

    def _take(self, nodes: Any) -> _Part:
        """Add what is repeated; the empty text could be repeated for ever."""
        part = self.join(nodes)
        if part.is_empty:
            raise _SlowError
        return part

    def _add_position(self, characters: int) -> _Part:
        self.steps.take(_STEPS_PER_POSITION)
        if len(self.follow) >= MAX_POSITIONS:
            raise _SlowError
        self.follow.append(0)
        return _Part(is_empty=False, first=characters, last=[len(self.follow) - 1])


def _unite(one: int, other: int) -> int:
    if one & other:
        raise _SlowError
    return one | other


def _read_characters(code: str, argument: Any) -> int:
    """Return the characters that a position takes, those beyond ASCII as one."""
    if code == "LITERAL":
        return 1 << min(int(argument), _ASCII)
    if code == "RANGE":
        low, high = (min(int(place), _ASCII) for place in argument)
        return (2 << high) - (1 << low)
    if code == "CATEGORY":
        name = str(argument)
        return _CATEGORIES.get(name) or _EVERY & ~_CATEGORIES[name.replace("_NOT_", "_")] | _OTHER
    if code == "IN":
        negated = str(argument[0][0]) == "NEGATE"
        characters = 0
        for item, value in argument[1:] if negated else argument:
            characters |= _read_characters(str(item), value)
        return _EVERY & ~characters | _OTHER if negated else characters
    return _EVERY & ~(1 << int(argument)) if code == "NOT_LITERAL" and argument < _ASCII else _EVERY
