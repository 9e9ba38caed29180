"""Refuse a JSON schema that an answer could not be held against, before anything is sent."""

from __future__ import annotations

import sys
from collections import deque
from typing import TYPE_CHECKING, Any

from llcuda.errors import UsageError
from llcuda.schema.pattern import compile_pattern
from llcuda.schema.validate import KEYWORDS, MAX_SHOWN, TYPES, Run, find_mismatch, show

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["check_schema"]

MAX_SCHEMA_DEPTH = 60

_REFUSED = frozenset({"$dynamicAnchor", "$dynamicRef", "$recursiveAnchor", "$recursiveRef"})
# Names of the right length that say nothing about which values hold. That ``format`` is among them is what the draft
# says; llama-server generates dates and times by it all the same.
_ANNOTATIONS = frozenset({"deprecated", "discriminator", "format", "readOnly", "title"})
_LIKENESS = 0.8
_MOST_TYPOS = 2

_FLAG, _NUMBER, _SCHEMA = {"type": "boolean"}, {"type": "number"}, {"type": ["boolean", "object"]}
_BOUND = {"type": ["boolean", "number"]}
_COUNT, _TYPE = {"type": "integer", "minimum": 0}, {"enum": [*TYPES]}
_NAMES = {"type": "array", "items": {"type": "string"}}
_SCHEMAS = {"type": "array", "items": _SCHEMA, "minItems": 1}
_NAMED = {"type": "object", "additionalProperties": _SCHEMA}
_ONE = frozenset({
    "additionalItems", "additionalProperties", "contains", "else", "if", "not", "propertyNames", "then",
    "unevaluatedItems", "unevaluatedProperties",
})  # fmt: skip
_LISTS = frozenset({"allOf", "anyOf", "items", "oneOf", "prefixItems"})
_MAPS = frozenset({"$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"})
_SAME_VALUE = frozenset({"allOf", "anyOf", "dependencies", "dependentSchemas", "else", "if", "not", "oneOf", "then"})
_ARGUMENTS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(_ONE, _SCHEMA),
    **dict.fromkeys(_LISTS, _SCHEMAS),
    **dict.fromkeys(_MAPS, _NAMED),
    **dict.fromkeys(("minContains", "minItems", "minLength", "minProperties"), _COUNT),
    **dict.fromkeys(("maxContains", "maxItems", "maxLength", "maxProperties"), _COUNT),
    **dict.fromkeys(("minimum", "maximum"), _NUMBER),
    **dict.fromkeys(("exclusiveMinimum", "exclusiveMaximum"), _BOUND),
    # llama-server takes a type that is there twice for two alternatives, in each schema inside as well.
    "type": {"anyOf": [_TYPE, {"type": "array", "items": _TYPE, "minItems": 1, "uniqueItems": True}]},
    "enum": {"type": "array", "minItems": 1},
    "$ref": {"type": "string", "pattern": "^#"},
    "items": {"anyOf": [_SCHEMA, {"type": "array", "items": _SCHEMA}]},
    "dependencies": {"type": "object", "additionalProperties": {"anyOf": [_SCHEMA, _NAMES]}},
    "dependentRequired": {"type": "object", "additionalProperties": _NAMES},
    "multipleOf": {"type": "number", "exclusiveMinimum": 0},
    "nullable": _FLAG,
    "pattern": {"type": "string"},
    "required": _NAMES,
    "uniqueItems": _FLAG,
}
"""What each keyword can have, as a schema."""


def check_schema(document: dict[str, Any], *, max_patterns: int = sys.maxsize) -> None:
    """Check that every keyword is known and has an argument of its kind, and that references lead somewhere.

    Raises UsageError with the place, and for more than ``max_patterns`` that differ.
    """
    run, found, patterns = Run(document), dict[int, Any](), set[str]()
    left: deque[tuple[str, Any, int]] = deque([("#", document, 0)])
    while left:
        place, schema, depth = left.pop()
        if isinstance(schema, bool) or id(schema) in found:
            continue
        _check_here(place, schema, depth, is_inner=bool(found))
        for pattern in [*schema.get("patternProperties", ()), *([schema["pattern"]] if "pattern" in schema else [])]:
            patterns.add(pattern)
            _check_pattern(pattern, place, is_allowed=len(patterns) <= max_patterns)
        found[id(schema)] = schema
        if "$ref" in schema:
            left.appendleft((schema["$ref"], _resolve(schema["$ref"], run), 0))  # after all that has a depth
        left += [(f"{place}/{name:.100}", part, depth + 1) for name, part in _parts(schema)]
    done: set[int] = set()
    for schema in found.values():
        _follow(schema, run, above=(), done=done)


def _check_here(place: str, schema: Any, depth: int, *, is_inner: bool) -> None:
    """Check a schema without those inside of it."""
    if not isinstance(schema, dict):
        raise UsageError(f"the schema has at {place} a {type(schema).__name__}, not an object or a boolean")
    if depth > MAX_SCHEMA_DEPTH:
        raise UsageError(f"the schema is nested more than {MAX_SCHEMA_DEPTH} levels deep")
    if is_inner and "$id" in schema:
        raise UsageError(f"the schema has at {place} an $id of its own, which would change what $ref means")
    for keyword, argument in schema.items():
        if keyword in _ARGUMENTS and find_mismatch(argument, _ARGUMENTS[keyword]):
            raise UsageError(f"the schema has at {place} a {keyword} that it cannot have: {show(argument)}")
        if keyword not in KEYWORDS and keyword not in _ARGUMENTS and keyword not in _ANNOTATIONS:
            _check_unknown(keyword, place)


def _check_pattern(pattern: str, place: str, *, is_allowed: bool) -> None:
    if not is_allowed:
        raise UsageError(f"the schema has at {place} a pattern more than it may have")
    try:
        compile_pattern(pattern).write()
    except UsageError as error:
        reason = f"the schema has at {place} the pattern {show(pattern)}, and {error.message}"
        raise UsageError(reason, hint="Write the pattern without it, or leave it out.") from None


def _check_unknown(keyword: Any, place: str) -> None:
    """Refuse a keyword that is like a known one, or that would change what others mean; any other says nothing."""
    shown = str(keyword)[:MAX_SHOWN]
    # Of a document of thousands of unknown keywords, each would take milliseconds with all that are known.
    alike = [one for one in KEYWORDS if one[0] == shown[:1].lower() and abs(len(one) - len(shown)) <= _MOST_TYPOS]
    near = _find_near(shown, alike) if alike else []
    if near or keyword in _REFUSED:
        hint = f"Did you mean {' or '.join(near)}?" if near else "Refer with $ref to a name under $defs."
        raise UsageError(f"the schema has at {place} the keyword {show(keyword)}, which is not supported", hint=hint)


def _find_near(shown: str, alike: list[str]) -> list[str]:
    from difflib import get_close_matches  # noqa: PLC0415 - 14 ms of CPU, for an error only

    return get_close_matches(shown, alike, cutoff=_LIKENESS)


def _resolve(reference: str, run: Run) -> Any:
    try:
        return run.resolve(reference)
    except (KeyError, IndexError, TypeError):
        raise UsageError(f"the schema refers to {reference:.100}, which is not in it") from None


def _parts(schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Return the schemas directly inside of a schema, with their places."""
    for keyword, argument in schema.items():
        if keyword in _MAPS:
            yield from ((f"{keyword}/{name}", part) for name, part in argument.items() if not isinstance(part, list))
        elif keyword in _LISTS and isinstance(argument, list):
            yield from ((f"{keyword}/{at}", part) for at, part in enumerate(argument))
        elif keyword in _ONE or keyword == "items":
            yield keyword, argument


def _follow(schema: Any, run: Run, *, above: tuple[int, ...], done: set[int]) -> None:
    """Refuse a schema that refers to itself for the same value; ``done`` are those that were followed."""
    if not isinstance(schema, dict) or id(schema) in done:
        return
    if id(schema) in above:
        raise UsageError("the schema refers to itself without a property or an item in between")
    parts = [part for place, part in _parts(schema) if place.partition("/")[0] in _SAME_VALUE]
    for part in [*parts, _resolve(schema["$ref"], run)] if "$ref" in schema else parts:
        _follow(part, run, above=(*above, id(schema)), done=done)
    done.add(id(schema))
