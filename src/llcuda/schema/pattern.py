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
from typing import TYPE_CHECKING, Any, NamedTuple

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
_ESCAPED = _join([(0, 0x1F), (0x22, 0x22), (0x5C, 0x5C)])  # which JSON does not write as they are
_SURROGATES = (0xD800, 0xE000)
_ESCAPES = {0x22: r"[\x22]", 0x5C: r"[\x5C]", 0x8: "b", 0x9: "t", 0xA: "n", 0xC: "f", 0xD: "r"}
_PLAIN = re.compile(r"\^(?:[\w \-()*+?,{}:]|\[\w(?:-\w|\w)*\])*\$", re.ASCII).fullmatch
"""What llama-server reads as it is meant. Such an expression is sent as it was written."""


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


class _State(NamedTuple):
    """A state of the automaton; which of the others come next depends on its kind."""

    kind: str
    argument: Any
    nexts: tuple[int, ...]


class _Automaton:
    """Thompson's automaton: the states that a text can be in are followed all at once."""

    def __init__(self, nodes: Any) -> None:
        self.states = [_State("MATCH", None, ())]
        self.start = self._add_all(nodes, 0, 0)

    def _put(self, kind: str, argument: Any, *nexts: int) -> int:
        if len(self.states) >= MAX_STATES:
            raise UsageError(f"it comes to more than {MAX_STATES} states with its repetitions written out")
        self.states.append(_State(kind, argument, nexts))
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
            low, high, nodes = argument
            return self._repeat(low, high, nodes, then, depth)
        if code == "AT":
            return self._put("AT", str(argument), then)
        if code in _LOOKS and argument[0] == 1:
            return self._put(code, _Automaton(argument[1]), then)
        raise UsageError(f"it has a part that is not supported ({_NAMES.get(code, code.lower())})")

    def _repeat(self, low: int, high: int, nodes: Any, then: int, depth: int) -> int:  # noqa: PLR0917
        """Write a repetition out, from its end: the loop or what may be there, then what must be there."""
        low, end = int(low), then
        if high == _parser.MAXREPEAT:
            loop = self._put("SPLIT", None, then)
            self.states[loop] = _State("SPLIT", None, (self._add_all(nodes, loop, depth), end))
            then = loop
        else:
            for _ in range(int(high) - low):
                then = self._put("SPLIT", None, self._add_all(nodes, then, depth), end)
        for _ in range(low):
            then = self._put("SPLIT", None, self._add_all(nodes, then, depth))
        return then

    def matches(self, text: str, spend: Callable[[int], None], *, at: int = 0, is_search: bool = True) -> bool:
        """Tell whether a part of the text matches: one that begins ``at`` a place, or later if it ``is_search``."""
        current = self._close([self.start], text, at, spend)
        for place in range(at, len(text)):
            if 0 in current or not (current or is_search):
                break
            code, states = ord(text[place]), self.states
            taking = (states[one] for one in current if states[one].kind == "SET")
            follow = [state.nexts[0] for state in taking if _has(state.argument, code)]
            current = self._close([*follow, self.start] if is_search else follow, text, place + 1, spend)
        return 0 in current

    def _close(self, seeds: list[int], text: str, at: int, spend: Callable[[int], None]) -> set[int]:  # noqa: PLR0917
        """Return the states that are reached without another character."""
        found: set[int] = set()
        while seeds:
            one = seeds.pop()
            if one in found:
                continue
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
    if argument in _BEGINNINGS:
        return at == 0
    if argument in _ENDS:
        return at == len(text)
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
        if _PLAIN(self._text) and lengths == (0, None):
            return self._text
        nodes = list(self._nodes)
        if lengths != (0, None) and [_position(node) for node in (nodes[:1] + nodes[-1:])] == [_BEGINNINGS, _ENDS]:
            nodes[1:-1] = _narrow(nodes[1:-1], *lengths)
        return f"^{_write_all(nodes, at_start=True, at_end=True)}$"


@lru_cache(maxsize=256)
def compile_pattern(text: str) -> Pattern:
    """Return a pattern. Raises UsageError with the reason for one that cannot be matched."""
    return Pattern(text)


def _to_python(text: str) -> str:
    """Write what only ECMA-262 has as Python does: names of groups, and what is not special in a class."""
    pieces, is_class = [], False
    for piece in re.findall(r"\\.|\(\?<(?=[A-Za-z_$])[^>]*>|.", text, re.DOTALL):
        if is_class and piece in {"[", "&", "~", "|"}:
            pieces.append(f"\\{piece}")
            continue
        if is_class and piece == "-" and pieces[-1] == "-":
            piece = r"\-"  # noqa: PLW2901
        is_class = piece == "[" if not is_class else piece != "]" or pieces[-1] in {"[", "[^"}
        if pieces[-1:] == ["["] and piece == "^":
            pieces[-1], piece = "[^", ""  # noqa: PLW2901
        pieces.append("(?:" if piece.startswith("(?<") and len(piece) > 3 else piece)  # noqa: PLR2004
    return "".join(pieces)


def _position(node: tuple[Any, Any]) -> set[str]:
    """Return whether a node is the beginning or the end of a text; empty for neither."""
    if str(node[0]) != "AT":
        return set()
    return next((places for places in (_BEGINNINGS, _ENDS) if str(node[1]) in places), set())


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
    parts = [node for node in nodes if str(node[0]) not in _LOOKS and "BOUNDARY" not in str(node[1])]
    first = parts[0] if parts else None
    last = parts[-1] if parts else None
    opens, closes = (node is not None and str(node[0]) in {"BRANCH", "SUBPATTERN"} for node in (first, last))
    before = at_start and not opens and not (first and _position(first) is _BEGINNINGS)
    after = at_end and not closes and not (last and _position(last) is _ENDS)
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
    if code == "SUBPATTERN":
        return f"({_write_all(list(argument[3]), at_start=at_start, at_end=at_end)})"
    if code == "BRANCH":
        return f"({'|'.join(_write_all(list(nodes), at_start=at_start, at_end=at_end) for nodes in argument[1])})"
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
    if plain := _cut(_cut(bounds, _ESCAPED), _SURROGATES):
        ways.append(_write_class(plain))
    if letters := "".join(letter.strip("[]") for code, letter in _ESCAPES.items() if _has(bounds, code)):
        ways.append(rf"[\x5C][{letters}]")
    if not ways:
        ways = [rf"[\x5C]u00{code:02x}" for code in range(0x20) if _has(bounds, code)]
    if not ways:
        raise UsageError("it has a class that no character is in")
    return ways[0] if len(ways) == 1 and _is_single(ways[0]) else f"({'|'.join(ways)})"


def _write_class(bounds: Bounds) -> str:
    if bounds[1] - bounds[0] == 1 and len(bounds) == 2 and _has(_CATEGORIES["WORD"], bounds[0]):  # noqa: PLR2004
        return chr(bounds[0])
    return f"[{''.join(_write_range(*pair) for pair in _pairs(bounds))}]"


def _write_range(low: int, high: int) -> str:
    return _write_code(low) if low == high else f"{_write_code(low)}-{_write_code(high)}"


def _write_code(code: int) -> str:
    if _has(_CATEGORIES["WORD"], code):
        return chr(code)
    return f"\\x{code:02X}" if code <= 0xFF else f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"  # noqa: PLR2004
