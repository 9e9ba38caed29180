r"""Regular expressions of a schema: matched in bounded time, and rewritten to what llama-server can generate by.

They mean what ECMA-262 says, whose digits and letters are those of ASCII. Python's parser reads them, and its ``re``
does not match them: of ``^(a+)+$`` it would take a time that doubles with every character. llama-server drops one
without a word that is not anchored or has ``\d`` in it, and knows nothing of how JSON writes a quote or a line end.
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_right
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from llcuda.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    Bounds = tuple[int, ...]
    """A set of characters: where it begins, where it ends, where it begins again, and so on."""

__all__ = ["Pattern", "compile_pattern"]

MAX_CHARACTERS = 4096
MAX_STATES = 4000
"""States of an expression once its repetitions are written out: ``[a-z]{0,1000}`` has 2000."""
_MAX_NESTING = 60
_LAST = 0x110000

_parser: Any = import_module("re._parser" if sys.version_info >= (3, 11) else "sre_parse")


def _join(ranges: list[tuple[int, int]]) -> Bounds:
    """Return the union of ranges, both ends included."""
    bounds: list[int] = []
    for low, high in sorted(ranges):
        if bounds and low <= bounds[-1]:
            bounds[-1] = max(bounds[-1], high + 1)
        else:
            bounds += [low, high + 1]
    return tuple(bounds)


def _invert(bounds: Bounds) -> Bounds:
    whole = bounds[1:] if bounds[:1] == (0,) else (0, *bounds)
    return whole[:-1] if whole[-1:] == (_LAST,) else (*whole, _LAST)


def _pairs(bounds: Bounds) -> list[tuple[int, int]]:
    return [(low, high - 1) for low, high in zip(bounds[::2], bounds[1::2], strict=True)]


def _cut(bounds: Bounds, other: Bounds) -> Bounds:
    """Return what is in one set and not in the other."""
    return _invert(_join(_pairs(_invert(bounds)) + _pairs(other)))


def _has(bounds: Bounds, code: int) -> bool:
    return bisect_right(bounds, code) & 1 == 1


_SPACES = (0x9, 0xA, 0xB, 0xC, 0xD, 0x20, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000)
_CATEGORIES = {
    "DIGIT": _join([(0x30, 0x39)]),
    "SPACE": _join([(code, code) for code in (*_SPACES, 0xFEFF)]),
    "WORD": _join([(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]),
}
_EVERY = (0, _LAST)
_DOT = _cut(_EVERY, _join([(0xA, 0xA), (0xD, 0xD), (0x2028, 0x2029)]))
_ESCAPED = _join([(0, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0xD800, 0xDFFF)])  # which JSON does not write as they are
_ESCAPES = {0x22: r"\x22", 0x5C: r"\x5C", 0x8: "b", 0x9: "t", 0xA: "n", 0xC: "f", 0xD: "r"}


def _read_set(code: str, argument: Any) -> Bounds:
    if code == "LITERAL":
        return (argument, argument + 1)
    if code == "NOT_LITERAL":
        return _invert((argument, argument + 1))
    if code == "ANY":
        return _DOT
    if code == "RANGE":
        return (argument[0], argument[1] + 1)
    if code == "CATEGORY":
        _, *negated, name = str(argument).split("_")
        return _invert(_CATEGORIES[name]) if negated else _CATEGORIES[name]
    is_negated = str(argument[0][0]) == "NEGATE"
    parts = argument[1:] if is_negated else argument
    joined = _join([pair for item, value in parts for pair in _pairs(_read_set(str(item), value))])
    return _invert(joined) if is_negated else joined


_SETS = frozenset({"LITERAL", "NOT_LITERAL", "ANY", "IN"})
_LOOKS = frozenset({"ASSERT", "ASSERT_NOT"})
_BEGINNINGS, _ENDS = {"AT_BEGINNING", "AT_BEGINNING_STRING"}, {"AT_END", "AT_END_STRING"}
_BOUNDARIES = {"AT_BOUNDARY", "AT_NON_BOUNDARY"}


class _Automaton:
    """Thompson's automaton: the states that a text can be in are followed all at once."""

    def __init__(self, nodes: Any, room: int = MAX_STATES) -> None:
        self.room = room
        """How many states more it may have, with those of what looks ahead."""
        self.states: list[tuple[str, Any, tuple[int, ...]]] = [("MATCH", None, ())]
        """Each has a kind, its argument, and the states that can come next."""
        self.start = self._add_all(nodes, 0, 0)

    def _put(self, kind: str, argument: Any, *nexts: int) -> int:
        self.room -= 1
        if self.room <= 0:
            raise UsageError(f"it comes to more than {MAX_STATES} states with its repetitions written out")
        self.states.append((kind, argument, nexts))
        return len(self.states) - 1

    def _add_all(self, nodes: Any, then: int, depth: int) -> int:
        if depth > _MAX_NESTING:
            raise UsageError(f"it is nested more than {_MAX_NESTING} levels deep")
        for code, argument in reversed(list(nodes)):
            then = self._add(str(code), argument, then, depth + 1)
        return then

    def _add(self, code: str, argument: Any, then: int, depth: int) -> int:  # noqa: PLR0917
        if code in _SETS:
            return self._put("SET", _read_set(code, argument), then)
        if code == "SUBPATTERN" and not argument[1] and not argument[2]:
            return self._add_all(argument[3], then, depth)
        if code == "BRANCH":
            return self._put("SPLIT", None, *(self._add_all(nodes, then, depth) for nodes in argument[1]))
        if code in {"MAX_REPEAT", "MIN_REPEAT"}:
            return self._repeat(argument, then, depth)
        if code == "AT":
            return self._put("AT", str(argument), then)
        if code in _LOOKS and argument[0] == 1:
            ahead = _Automaton(argument[1], self.room)
            self.room = ahead.room
            return self._put(code, ahead, then)
        raise UsageError(f"it has a part that is not supported ({_NAMES.get(code, code.lower())})")

    def _repeat(self, argument: tuple[int, Any, Any], then: int, depth: int) -> int:
        """Write a repetition out, from its end: the loop or what may be there, then what must be there."""
        (low, high, nodes), end = argument, then
        if high == _parser.MAXREPEAT:
            then = self._put("SPLIT", None, end)
            self.states[then] = ("SPLIT", None, (self._add_all(nodes, then, depth), end))
        for _ in range(0 if high == _parser.MAXREPEAT else int(high) - int(low)):
            then = self._put("SPLIT", None, self._add_all(nodes, then, depth), end)
        for _ in range(int(low)):
            then = self._put("SPLIT", None, self._add_all(nodes, then, depth))
        return then

    def matches(self, text: str, spend: Callable[[int], None], *, at: int = 0, is_search: bool = True) -> bool:
        """Tell whether a part of the text matches: one that begins ``at`` a place, or later if it ``is_search``."""
        current = self._close([self.start], text, at, spend)
        for place in range(at, len(text)):
            if 0 in current or not (current or is_search):
                break
            taking = (self.states[one] for one in current)
            code = ord(text[place])
            follow = [nexts[0] for kind, argument, nexts in taking if kind == "SET" and _has(argument, code)]
            current = self._close([*follow, self.start] if is_search else follow, text, place + 1, spend)
        return 0 in current

    def _close(self, seeds: list[int], text: str, at: int, spend: Callable[[int], None]) -> set[int]:  # noqa: PLR0917
        """Return the states that are reached without another character."""
        found: set[int] = set()
        while seeds:
            one = seeds.pop()
            if one not in found:
                found.add(one)
                kind, argument, nexts = self.states[one]
                if kind == "SPLIT" or (kind not in {"SET", "MATCH"} and _holds(kind, argument, text, at, spend)):
                    seeds.extend(nexts)
        spend(len(found))
        return found


def _holds(kind: str, argument: Any, text: str, at: int, spend: Callable[[int], None]) -> bool:  # noqa: PLR0917
    """Tell whether what takes no character holds at a place."""
    if kind in _LOOKS:
        return bool(argument.matches(text, spend, at=at, is_search=False) == (kind == "ASSERT"))
    if argument in _BEGINNINGS | _ENDS:
        return at == (0 if argument in _BEGINNINGS else len(text))
    around = [0 <= place < len(text) and _has(_CATEGORIES["WORD"], ord(text[place])) for place in (at - 1, at)]
    return bool((around[0] != around[1]) == (argument == "AT_BOUNDARY"))


_NAMES = {
    "ASSERT": "looking behind", "ASSERT_NOT": "looking behind", "GROUPREF": "a reference back",
    "GROUPREF_EXISTS": "a condition", "SUBPATTERN": "flags", "ATOMIC_GROUP": "an atomic group",
    "POSSESSIVE_REPEAT": "a possessive repetition",
}  # fmt: skip


class Pattern:
    """An expression that was read."""

    def __init__(self, text: str) -> None:
        """Read it. Raises UsageError with the reason for one that cannot be matched."""
        if len(text) > MAX_CHARACTERS:
            raise UsageError(f"it has {len(text)} characters, and may have {MAX_CHARACTERS}")
        try:
            self._nodes = _parser.parse(_to_python(text))
            is_flagged = self._nodes.state.flags != re.UNICODE
            self._automaton = _Automaton(self._nodes)
        except (RecursionError, OverflowError, ValueError, re.error) as error:
            raise UsageError(f"it cannot be read ({error})") from None
        if is_flagged:
            raise UsageError("it has a part that is not supported (flags)")
        self._text = text

    def matches(self, text: str, spend: Callable[[int], None] = lambda _: None) -> bool:
        """Tell whether it matches anywhere in a text, as the draft says; ``spend`` is told each of the steps."""
        return self._automaton.matches(text, spend)

    def write(self, lengths: tuple[int, int | None] = (0, None)) -> str:
        """Return the expression that llama-server generates by, as JSON writes what it matches.

        ``lengths`` are held to in a repetition of single characters. What only looks ahead is left out.
        """
        nodes = list(self._nodes)
        if lengths != (0, None) and _is_at(nodes[:1], _BEGINNINGS) and _is_at(nodes[-1:], _ENDS):
            nodes[1:-1] = _narrow(nodes[1:-1], *lengths)
        return f"^{_write_all(nodes, at_start=True, at_end=True)}$"


compile_pattern = lru_cache(maxsize=256)(Pattern)


def _to_python(text: str) -> str:
    """Write what only ECMA-262 has as Python does: names of groups, and what is not special in a class."""
    return re.sub(r"\\.|\(\?<(?=[A-Za-z_$])[^>]*>|\[\^?\]?(?:\\.|[^]\\])*", _to_python_part, text, flags=re.DOTALL)


def _to_python_part(found: re.Match[str]) -> str:
    if found[0][0] != "[":
        return "(?:" if found[0][0] == "(" else found[0]
    # Python warns of what it may take for sets within a set one day.
    return found[0][0] + re.sub(r"(\\.)|([\[&~|]|(?<=(?<!\\)-)-)", _escape, found[0][1:], flags=re.DOTALL)


def _escape(found: re.Match[str]) -> str:
    return found[1] or f"\\{found[2]}"


def _is_at(nodes: list[Any], places: set[str]) -> bool:
    """Tell whether a node, if there is one, is one of the places in a text that take no character."""
    return any(str(code) == "AT" and str(argument) in places for code, argument in nodes)


def _narrow(nodes: list[Any], low: int, high: int | None) -> list[Any]:
    """Hold a repetition of one character to lengths; anything else stays as it is, and is checked in the answer."""
    if len(nodes) == 1 and str(nodes[0][0]) in {"MAX_REPEAT", "MIN_REPEAT"}:
        least, most, inner = nodes[0][1]
        if len(inner) == 1 and str(inner[0][0]) in _SETS:
            bounds = max(least, low), most if high is None else min(int(most), high)
            return [(nodes[0][0], (*bounds, inner))] if bounds[0] <= bounds[1] else nodes
    return nodes


def _write_all(nodes: list[Any], *, at_start: bool, at_end: bool) -> str:
    """Write parts that come one after the other; if not anchored, anything may stand before and after them."""
    parts = [node for node in nodes if str(node[0]) not in _LOOKS and not _is_at([node], _BOUNDARIES)]
    opens, closes = (bool(some) and str(some[0][0]) in {"BRANCH", "SUBPATTERN"} for some in (parts[:1], parts[-1:]))
    before = at_start and not opens and not _is_at(parts[:1], _BEGINNINGS)
    after = at_end and not closes and not _is_at(parts[-1:], _ENDS)
    inner = [
        _write(str(code), argument, at_start=at_start and not at, at_end=at_end and at == len(parts) - 1)
        for at, (code, argument) in enumerate(parts)
    ]
    rest = f"{_write_set(_EVERY)}*"
    return (rest if before else "") + "".join(inner) + (rest if after and (parts or not before) else "")


def _write(code: str, argument: Any, *, at_start: bool, at_end: bool) -> str:
    if code in _SETS:
        return _write_set(_read_set(code, argument))
    if code == "AT":
        return ""
    if code in {"SUBPATTERN", "BRANCH"}:
        ways = argument[1] if code == "BRANCH" else [argument[3]]
        return f"({'|'.join(_write_all(list(nodes), at_start=at_start, at_end=at_end) for nodes in ways)})"
    low, high, nodes = argument
    inner = _write_all(list(nodes), at_start=False, at_end=False)
    if not inner or high == 0:
        return ""
    high = "" if high == _parser.MAXREPEAT else high
    sign = {(0, 1): "?", (0, ""): "*", (1, ""): "+", (1, 1): ""}.get((low, high), f"{{{low},{high}}}")
    return (inner if _is_single(inner) else f"({inner})") + sign


def _is_single(text: str) -> bool:
    return len(text) == 1 or (text[0] == "[" and text.find("]") == len(text) - 1)


def _write_set(bounds: Bounds) -> str:
    """Write one character of a set as it stands in JSON: as it is, or after a backslash."""
    ways = []
    if plain := _cut(bounds, _ESCAPED):
        pairs = [(_write_code(low), _write_code(high)) for low, high in _pairs(plain)]
        inner = "".join(low if low == high else f"{low}-{high}" for low, high in pairs)
        ways.append(inner if len(inner) == 1 else f"[{inner}]")
    if letters := "".join(letter for code, letter in _ESCAPES.items() if _has(bounds, code)):
        ways.append(rf"[\x5C][{letters}]")
    ways = ways or [rf"[\x5C]u00{code:02x}" for code in range(0x20) if _has(bounds, code)]
    if not ways:
        raise UsageError("it has a class that no character is in")
    return ways[0] if len(ways) == 1 and _is_single(ways[0]) else f"({'|'.join(ways)})"


def _write_code(code: int) -> str:
    if _has(_CATEGORIES["WORD"], code):
        return chr(code)
    return f"\\x{code:02X}" if code <= 0xFF else f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"  # noqa: PLR2004
