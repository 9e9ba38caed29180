"""Refuse a JSON schema that an answer could not be held against, before anything is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llcuda.errors import UsageError
from llcuda.schema.pattern import compile_pattern
from llcuda.schema.validate import KEYWORDS, MAX_SHOWN, TYPES, resolve_reference, show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["check_schema"]

MAX_SCHEMA_DEPTH = 60

# They say something about the schema and nothing about which values hold to it. That ``format`` is among them is what
# the draft says, and llama-server generates dates and times by it all the same. ``discriminator`` comes from pydantic,
# beside the ``oneOf`` that carries its meaning.
_ANNOTATIONS = frozenset({
    "$anchor", "$comment", "$defs", "$id", "$schema", "$vocabulary", "contentEncoding", "contentMediaType",
    "contentSchema", "default", "definitions", "deprecated", "description", "discriminator", "example", "examples",
    "externalDocs", "format", "id", "readOnly", "title", "writeOnly", "xml",
})  # fmt: skip
_REFUSED = {
    "$dynamicAnchor": "Give the definition a name under $defs, and refer to it with $ref.",
    "$dynamicRef": "Refer with $ref to a definition under $defs.",
    "$recursiveAnchor": "Give the definition a name under $defs, and refer to it with $ref.",
    "$recursiveRef": "Refer with $ref to a definition under $defs.",
}
_LIKENESS = 0.8
_MOST_TYPOS = 2


def check_schema(document: dict[str, Any]) -> None:
    """Check that every keyword is known and has an argument of its kind, and that references lead somewhere.

    Raises UsageError with the place.
    """
    _check(document, document, place="#", depth=0)
    _check_cycles(document, document, set())


def _check(schema: Any, document: dict[str, Any], *, place: str, depth: int) -> None:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise UsageError(f"the schema has at {place} a {type(schema).__name__}, not an object or a boolean")
    if depth > MAX_SCHEMA_DEPTH:
        raise UsageError(f"the schema is nested more than {MAX_SCHEMA_DEPTH} levels deep")
    for keyword, argument in schema.items():
        _check_keyword(keyword, argument, place=place)
    if "$id" in schema and schema is not document:
        raise UsageError(f"the schema has at {place} an $id of its own, which would change what $ref means")
    if "$ref" in schema:
        _resolve(schema["$ref"], document)
    for name, part in _parts(schema):
        _check(part, document, place=f"{place}/{name:.100}", depth=depth + 1)


def _check_keyword(keyword: Any, argument: Any, *, place: str) -> None:
    if keyword not in KEYWORDS:
        if keyword not in _ANNOTATIONS:
            _check_unknown(keyword, place)
    elif keyword in {"pattern", "patternProperties"}:
        _check_patterns(keyword, argument, place)
    elif not _ARGUMENTS[keyword](argument):
        raise UsageError(f"the schema has at {place} a {keyword} that it cannot have: {show(argument)}")


def _check_unknown(keyword: Any, place: str) -> None:
    """Refuse a keyword that is like a known one, or that would change what others mean; any other says nothing."""
    from difflib import get_close_matches  # noqa: PLC0415 - 14 ms of CPU, for an error only

    shown = str(keyword)[:MAX_SHOWN]
    # Of a document of thousands of unknown keywords, each would take milliseconds with all that are known.
    alike = [one for one in KEYWORDS if one[0] == shown[:1].lower() and abs(len(one) - len(shown)) <= _MOST_TYPOS]
    near = get_close_matches(shown, alike, cutoff=_LIKENESS) if alike else []
    if near or keyword in _REFUSED:
        hint = _REFUSED.get(keyword) or f"Did you mean {' or '.join(near)}?"
        raise UsageError(f"the schema has at {place} the keyword {show(keyword)}, which is not supported", hint=hint)


def _check_patterns(keyword: str, argument: Any, place: str) -> None:
    if isinstance(argument, dict) if keyword == "patternProperties" else isinstance(argument, str):
        for pattern in argument if isinstance(argument, dict) else [argument]:
            try:
                compile_pattern(pattern).write()
            except UsageError as error:  # noqa: PERF203 - it ends the loop
                reason = f"the schema has at {place} the pattern {show(pattern)}, and {error.message}"
                raise UsageError(reason, hint="Write the pattern without it, or leave it out.") from None
    if not _ARGUMENTS[keyword](argument):
        raise UsageError(f"the schema has at {place} a {keyword} that it cannot have: {show(argument)}")


def _resolve(reference: str, document: dict[str, Any]) -> Any:
    try:
        return resolve_reference(reference, document)
    except (KeyError, IndexError, TypeError):
        raise UsageError(f"the schema refers to {reference:.100}, which is not in it") from None


def _parts(schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Return the schemas directly inside of a schema, with their places."""
    for keyword in _ONE:
        if keyword in schema and not isinstance(schema[keyword], list):
            yield keyword, schema[keyword]
    for keyword in ("allOf", "anyOf", "items", "oneOf", "prefixItems"):
        parts = schema.get(keyword, ())
        for index, part in enumerate(parts if isinstance(parts, list) else ()):
            yield f"{keyword}/{index}", part
    for keyword in ("$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"):
        parts = schema.get(keyword, {})
        if not isinstance(parts, dict):
            raise UsageError(f"the schema has a {keyword} that is not an object")
        for name, part in parts.items():
            if keyword != "dependencies" or not isinstance(part, list):
                yield f"{keyword}/{name}", part


def _check_cycles(schema: Any, document: dict[str, Any], done: set[int]) -> None:
    """Refuse schemas that refer to themselves for the same value: validation would never end."""
    if isinstance(schema, dict):
        _follow(schema, document, above=(), done=done)
        for _, part in _parts(schema):
            _check_cycles(part, document, done)


def _follow(schema: Any, document: dict[str, Any], *, above: tuple[int, ...], done: set[int]) -> None:
    """Follow a schema to those for the same value; ``done`` are schemas that were, so that none is followed twice."""
    if not isinstance(schema, dict) or id(schema) in done:
        return
    if id(schema) in above:
        raise UsageError("the schema refers to itself without a property or an item in between")
    for part in _same_value(schema, document):
        _follow(part, document, above=(*above, id(schema)), done=done)
    done.add(id(schema))


def _same_value(schema: dict[str, Any], document: dict[str, Any]) -> Iterator[Any]:
    """Return the schemas that are held against the same value as this one."""
    if "$ref" in schema:
        yield _resolve(schema["$ref"], document)
    for keyword in ("not", "if", "then", "else"):
        if keyword in schema:
            yield schema[keyword]
    for keyword in ("dependencies", "dependentSchemas"):
        yield from schema.get(keyword, {}).values()
    for keyword in ("allOf", "anyOf", "oneOf"):
        yield from schema.get(keyword, ())


def _is_count(argument: Any) -> bool:
    return _is_number(argument) and argument >= 0 and argument == int(argument)


def _is_number(argument: Any) -> bool:
    return isinstance(argument, (int, float)) and not isinstance(argument, bool) and argument - argument == 0


def _is_schema(argument: Any) -> bool:
    return isinstance(argument, (bool, dict))


def _is_schemas(argument: Any) -> bool:
    return isinstance(argument, list) and bool(argument) and all(map(_is_schema, argument))


def _is_named_schemas(argument: Any) -> bool:
    return isinstance(argument, dict) and all(map(_is_schema, argument.values()))


def _is_names(argument: Any) -> bool:
    return isinstance(argument, list) and all(isinstance(name, str) for name in argument)


def _is_types(argument: Any) -> bool:
    if isinstance(argument, str):
        return argument in TYPES
    # llama-server takes a name that is there twice for two alternatives, in each schema inside as well.
    return _is_names(argument) and bool(argument) and TYPES.keys() >= set(argument) and _is_unique(argument)


def _is_unique(names: list[str]) -> bool:
    return len(set(names)) == len(names)


def _is_named_names(argument: Any) -> bool:
    return isinstance(argument, dict) and all(map(_is_names, argument.values()))


def _is_dependencies(argument: Any) -> bool:
    return isinstance(argument, dict) and all(_is_schema(part) or _is_names(part) for part in argument.values())


def _is_bound(argument: Any) -> bool:
    return isinstance(argument, bool) or _is_number(argument)


_ONE = (
    "additionalItems", "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then",
    "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
_ARGUMENTS: dict[str, Callable[[Any], bool]] = {
    "type": _is_types,
    "enum": lambda argument: isinstance(argument, list) and bool(argument),
    "const": lambda _: True,
    "$ref": lambda argument: isinstance(argument, str) and argument.startswith("#"),
    "allOf": _is_schemas,
    "anyOf": _is_schemas,
    "oneOf": _is_schemas,
    "properties": _is_named_schemas,
    "patternProperties": _is_named_schemas,
    **dict.fromkeys(_ONE, _is_schema),
    "dependentRequired": _is_named_names,
    "dependentSchemas": _is_named_schemas,
    "dependencies": _is_dependencies,
    "minContains": _is_count,
    "maxContains": _is_count,
    "nullable": lambda argument: isinstance(argument, bool),
    "required": _is_names,
    "minProperties": _is_count,
    "maxProperties": _is_count,
    "prefixItems": _is_schemas,
    "items": lambda argument: _is_schema(argument) or argument == [] or _is_schemas(argument),
    "minItems": _is_count,
    "maxItems": _is_count,
    "uniqueItems": lambda argument: isinstance(argument, bool),
    "minLength": _is_count,
    "maxLength": _is_count,
    "pattern": lambda argument: isinstance(argument, str),
    "minimum": _is_number,
    "maximum": _is_number,
    "exclusiveMinimum": _is_bound,
    "exclusiveMaximum": _is_bound,
    "multipleOf": lambda argument: _is_number(argument) and argument > 0,
}
