"""What a schema or a grammar would cost llama-server, told from its text before it is sent.

llama-server keeps every way that a grammar leaves open, and holds the tokens of the vocabulary against all of them,
while everybody waits. The figures are CPU seconds of its main thread, with vendor/patches/ and Gemma 3's 262,144 of
them.
"""

from __future__ import annotations

import re
from typing import Any

from llcuda.errors import UsageError
from llcuda.schema.validate import resolve_reference

__all__ = ["SchemaCosts", "check_grammar_cost"]

MAX_WAYS = 4096
"""Ways to begin a value, or alternatives in a grammar: so many texts take 0.4 s for the token that chooses.

An object counts as eight: of 512, the dearest token takes 0.5 s. All time zones are 600.
"""
MAX_OPTIONAL = 256
"""Properties of one object that may be left out: of 256, eight tokens take 1.1 s."""
MAX_PAIRS = 1 << 17
"""Pairs of such properties in a request; a rule is written for each: for 13 objects of 100, or two of 256, in 0.2 s."""
MAX_NODES = 1 << 14
"""Schemas in a request, in 0.4 s."""
MAX_REPEATS = 1 << 17
"""The sum of ``maxLength``, ``maxItems`` and the like, 2000 at most for each: so many take 0.1 s and 50 MB."""
MAX_NAME_CHARACTERS = 256
"""Of a property's name, with one bracket for each in the grammar: 1000 were refused, 20,000 the end of llama-server."""
MAX_REFERENCE_CHARACTERS = 1024
MAX_SKIPS = 1024
"""``?``, ``*`` and ``{…}`` in one rule of a grammar: of 1000 ``"a"?``, a token takes 0.4 s."""
MAX_GRAMMAR_DEPTH = 64
"""Levels of brackets in a grammar. llama-server reads them with a recursion: 20,000 were the end of it."""
MAX_ELEMENTS = 1 << 17
"""Characters of a grammar once its repetitions are written out, at 8 bytes and more for each."""
_MOST_REPEATS = 2000  # llama-server takes more for no limit
_MAX_DIGITS = 9
_NESTED_WAYS = 8  # of an object and a list, whose bracket is followed by white space of many forms
_MAX_DEPTH = 64


class SchemaCosts:
    """What the schemas of one request come to, as llama-server is sent them; it goes to what ``$ref`` names once."""

    def __init__(self) -> None:
        """Have none."""
        self._nodes = self._pairs = self._repeats = self._depth = 0
        self._document: dict[str, Any] = {}
        self._ways: dict[str, int] = {}

    def add(self, document: dict[str, Any]) -> None:
        """Check that llama-server can make a grammar of a schema, and generate by it.

        Raises UsageError with the place, the count and the limit.
        """
        self._document, self._ways, self._depth = document, {}, 0
        self._visit(document, "#")

    def _visit(self, schema: Any, place: str) -> int:
        """Return in how many ways a value that holds to it can begin."""
        self._take_node()
        if type(schema) is not dict:
            return _NESTED_WAYS
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise UsageError(f"it is nested more than {_MAX_DEPTH} levels deep with its parts written out")
        if type(schema.get("type")) is list:
            ways = sum(self._visit({**schema, "type": kind}, place) for kind in schema["type"])
        else:
            ways = self._visit_parts(schema, place)
        self._depth -= 1
        if ways > MAX_WAYS:
            raise _refuse(f"{place} has {ways} alternatives, {_NESTED_WAYS} for each object or list", MAX_WAYS)
        return ways

    def _visit_parts(self, schema: dict[str, Any], place: str) -> int:
        self._count_repeats(schema, place)
        kind = schema.get("type")
        is_nested = kind in ("array", "object") or "properties" in schema or "items" in schema
        ways = max(_NESTED_WAYS if is_nested else 1, len(_list(schema.get("enum"))), self._follow(schema))
        for keyword in ("anyOf", "oneOf"):
            parts = enumerate(_list(schema.get(keyword)))
            ways = max(ways, sum(self._visit(part, f"{place}/{keyword}/{at}") for at, part in parts))
        required = {name for name in _list(schema.get("required")) if type(name) is str}
        properties = _dict(schema.get("properties")).items()
        for name, part in properties:
            if len(name) > MAX_NAME_CHARACTERS:
                raise _refuse(f"{place}/properties has a name of {len(name)} characters", MAX_NAME_CHARACTERS)
            self._visit(part, f"{place}/properties/{name}")
        self._count_optional(len(properties) - sum(name in required for name, _ in properties), f"{place}/properties")
        for keyword in ("additionalProperties", "items"):
            if type(schema.get(keyword)) is dict:
                self._visit(schema[keyword], f"{place}/{keyword}")
        for at, part in enumerate(_list(schema.get("prefixItems"))):
            self._visit(part, f"{place}/prefixItems/{at}")
        return ways

    def _count_optional(self, optional: int, place: str) -> None:
        self._pairs += optional * optional
        if optional > MAX_OPTIONAL:
            raise _refuse(f"{place} has {optional} that are not required", MAX_OPTIONAL)
        if self._pairs > MAX_PAIRS:
            raise _refuse(f"{place} and those before have {self._pairs} pairs that are not required", MAX_PAIRS)

    def _follow(self, schema: dict[str, Any]) -> int:
        """Return the ways of what ``$ref`` names; within itself it counts as one."""
        reference = schema.get("$ref")
        if type(reference) is not str:
            return 1
        if reference not in self._ways:
            self._ways[reference] = 1
            self._ways[reference] = self._visit(self._resolve(reference), reference)
        return self._ways[reference]

    def _resolve(self, reference: str) -> Any:
        if len(reference) > MAX_REFERENCE_CHARACTERS:
            raise _refuse(f"a $ref has {len(reference)} characters", MAX_REFERENCE_CHARACTERS)
        try:
            return resolve_reference(reference, self._document)
        except (KeyError, IndexError, TypeError):
            return None

    def _take_node(self) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise UsageError(f"it comes to more than {MAX_NODES} schemas")

    def _count_repeats(self, schema: dict[str, Any], place: str) -> None:
        counts = (schema.get(keyword) for keyword in ("maxItems", "maxLength", "minItems", "minLength"))
        self._repeats += sum(max(0, min(count, _MOST_REPEATS)) for count in counts if type(count) is int)
        if self._repeats > MAX_REPEATS:
            raise _refuse(f"up to {place} are {self._repeats} repetitions by maxLength, maxItems and such", MAX_REPEATS)
        if type(schema.get("pattern")) is str:
            check_grammar_cost(schema["pattern"])


# Literals, classes, comments, repetitions, the beginnings of rules, and what is a character by itself.
_find_pieces = re.compile(
    r"""("(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|\\.|\#[^\n]*|\{[^}]*\}|::=|[\w.-]+|\S)""", re.DOTALL
).findall


def check_grammar_cost(grammar: str) -> None:
    """Check that llama-server can read a grammar, or a pattern, and follow it.

    Whether it is one is for llama-server to say. Raises UsageError with the count and the limit.
    """
    skips = elements = 0
    ways = [1]  # of each level of brackets that is open
    last = ""
    for piece in _find_pieces(grammar):
        if piece == "::=":
            skips = 0
            ways[-1] = 1
        elif piece == "(":
            ways.append(1)
        elif piece == ")":
            ways = ways[:-1] or [1]
        skips += piece[0] in "?*{"
        ways[-1] += piece == "|"
        elements += _count_elements(piece, last)
        last = piece
        for what, count, most in (
            ("levels of brackets", len(ways) - 1, MAX_GRAMMAR_DEPTH),
            ("alternatives at one place", ways[-1], MAX_WAYS),
            ("of ?, * and {} in one rule", skips, MAX_SKIPS),
            ("characters with its repetitions written out", elements, MAX_ELEMENTS),
        ):
            if count > most:
                raise UsageError(f"it has {count} {what}, and may have {most}")


def _count_elements(piece: str, last: str) -> int:
    if piece[0] != "{":
        return len(piece)
    numbers = [part.strip() for part in piece[1:-1].split(",")]
    if any(len(number) > _MAX_DIGITS for number in numbers):
        raise UsageError(f"it has a repetition of {max(map(len, numbers))} digits, and may have {_MAX_DIGITS}")
    return len(last) * max((min(int(number), _MOST_REPEATS) for number in numbers if number.isdecimal()), default=1)


def _list(value: Any) -> list[Any]:
    return value if type(value) is list else []


def _dict(value: Any) -> dict[str, Any]:
    return value if type(value) is dict else {}


def _refuse(what: str, most: int) -> UsageError:
    return UsageError(f"{what}, and may have {most}")
