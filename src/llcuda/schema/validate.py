"""Hold a value against a JSON schema that was checked before (the 2020-12 draft's meaning of its keywords).

It is our own because its work must be bounded whatever the schema: at most 1,000,000 steps and 100 levels of a value.
"""

from __future__ import annotations

import operator
import reprlib
from contextlib import suppress
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from llcuda.schema.pattern import compile_pattern

if TYPE_CHECKING:
    from collections.abc import Callable

    Check = Callable[[Any, Any, "_Site"], str | None]

__all__ = ["KEYWORDS", "MAX_SHOWN", "TYPES", "find_mismatch", "freeze", "resolve_reference", "show"]

# Both bounds are far above what a model writes. They are there for schemas that refer to themselves, where the work can
# double with every level of the value.
MAX_DEPTH = 100
MAX_STEPS = 1_000_000
MAX_SHOWN = 60
_MAX_INDEX_DIGITS = 9


def find_mismatch(value: Any, document: dict[str, Any]) -> str | None:
    """Return where and why a value does not hold to the schema, None if it does.

    A value nested deeper than 100 levels, or one that takes more than a million steps, does not hold.
    """
    try:
        return _Site(_Run(document), document, place="$", depth=0).find(value, document)
    except RecursionError:
        return "it is nested too deeply to be checked"


def freeze(value: Any) -> Any:
    """Return something hashable that is equal for values that are equal in JSON: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, list):
        return ("array", tuple(freeze(item) for item in value))
    if isinstance(value, dict):
        return ("object", frozenset((name, freeze(item)) for name, item in value.items()))
    return value


def resolve_reference(reference: str, document: Any) -> Any:
    """Return the part of the document that ``#/a/b`` points to, raising KeyError if there is none."""
    from urllib.parse import unquote  # noqa: PLC0415 - only for schemas with references

    part = document
    if reference[:1] == "#" and reference[1:2] not in {"", "/"}:
        return _find_anchor(reference[1:], document)
    for name in unquote(reference).split("/")[1:]:
        key = name.replace("~1", "/").replace("~0", "~")
        is_index = isinstance(part, list) and key.isdecimal() and len(key) <= _MAX_INDEX_DIGITS
        part = part[int(key)] if is_index else part[key]
    return part


def _find_anchor(name: str, document: Any) -> Any:
    if isinstance(document, dict) and document.get("$anchor") == name:
        return document
    for part in document.values() if isinstance(document, dict) else document if isinstance(document, list) else ():
        with suppress(KeyError):
            return _find_anchor(name, part)
    raise KeyError(name)


class _Run:
    """One validation: the document for its references, and how many steps were taken."""

    __slots__ = ("document", "references", "steps")

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.references: dict[str, Any] = {}
        self.steps = 0

    def resolve(self, reference: str) -> Any:
        if reference not in self.references:
            self.references[reference] = resolve_reference(reference, self.document)
        return self.references[reference]


class _Site:
    """Where a keyword stands: the schema around it, the place of the value, and how deep that is."""

    __slots__ = ("depth", "place", "run", "schema")

    def __init__(self, run: _Run, schema: dict[str, Any], *, place: str, depth: int) -> None:
        self.run = run
        self.schema = schema
        self.place = place
        self.depth = depth

    def find(self, value: Any, schema: Any, *, at: str = "") -> str | None:
        """Hold a value against a schema; ``at`` is how to get there from this place."""
        if schema is True:
            return None
        place = self.place + at
        if schema is False:
            return f"{place}: nothing is allowed here"
        if value is None and schema.get("nullable") is True:
            return None
        self.spend(1)
        if self.depth > MAX_DEPTH:
            raise RecursionError
        site = _Site(self.run, schema, place=place, depth=self.depth + 1)
        for keyword, argument in schema.items():
            if keyword in KEYWORDS:
                kinds, check = KEYWORDS[keyword]
                if (kinds is None or type(value) in kinds) and (reason := check(value, argument, site)):
                    return reason
        return None

    def spend(self, steps: int) -> None:
        """Count work; what takes more than a million steps is given up."""
        self.run.steps += steps
        if self.run.steps > MAX_STEPS:
            raise RecursionError


def _is_type(value: Any, name: str) -> bool:
    return type(value) in TYPES[name] and (name != "integer" or type(value) is int or value.is_integer())


def _type(value: Any, names: Any, site: _Site) -> str | None:
    names = [names] if isinstance(names, str) else names
    if any(_is_type(value, name) for name in names):
        return None
    return f"{site.place}: {show(value)} is not of type {' or '.join(names)}"


def _enum(value: Any, allowed: list[Any], site: _Site) -> str | None:
    site.spend(len(allowed))
    frozen = freeze(value)
    if any(frozen == freeze(one) for one in allowed):
        return None
    return f"{site.place}: {show(value)} is not one of {show(allowed)}"


def _const(value: Any, only: Any, site: _Site) -> str | None:
    return None if freeze(value) == freeze(only) else f"{site.place}: {show(value)} is not {show(only)}"


def _reference(value: Any, reference: str, site: _Site) -> str | None:
    return site.find(value, site.run.resolve(reference))


def _all_of(value: Any, schemas: list[Any], site: _Site) -> str | None:
    for schema in schemas:
        if reason := site.find(value, schema):
            return reason
    return None


def _any_of(value: Any, schemas: list[Any], site: _Site) -> str | None:
    reasons = []
    for schema in schemas:
        reason = site.find(value, schema)
        if reason is None:
            return None
        reasons.append(reason)
    return f"{site.place}: none of {len(schemas)} alternatives fits ({reasons[0]})"


def _one_of(value: Any, schemas: list[Any], site: _Site) -> str | None:
    fitting = sum(site.find(value, schema) is None for schema in schemas)
    return None if fitting == 1 else f"{site.place}: {fitting} of {len(schemas)} alternatives fit, not one"


def _not(value: Any, schema: Any, site: _Site) -> str | None:
    return f"{site.place}: {show(value)} is what it must not be" if site.find(value, schema) is None else None


def _properties(value: Any, schemas: dict[str, Any], site: _Site) -> str | None:
    for name, schema in schemas.items():
        if name in value and (reason := site.find(value[name], schema, at=f".{name}")):
            return reason
    return None


def _pattern_properties(value: Any, schemas: dict[str, Any], site: _Site) -> str | None:
    site.spend(len(schemas) * len(value))
    for pattern, schema in schemas.items():
        for name in value:
            does_match = compile_pattern(pattern).matches(name, site.spend)
            if does_match and (reason := site.find(value[name], schema, at=f".{name}")):
                return reason
    return None


def _additional_properties(value: Any, schema: Any, site: _Site) -> str | None:
    known, patterns = site.schema.get("properties", {}), site.schema.get("patternProperties", {})
    site.spend(len(patterns) * len(value))
    for name, item in value.items():
        if name in known or any(compile_pattern(one).matches(name, site.spend) for one in patterns):
            continue
        if schema is False:
            return f"{site.place}: there is no property {name!r}"
        if reason := site.find(item, schema, at=f".{name}"):
            return reason
    return None


def _required(value: Any, names: list[str], site: _Site) -> str | None:
    missing = [name for name in names if name not in value]
    return f"{site.place}: {', '.join(missing)} is missing" if missing else None


def _property_names(value: Any, schema: Any, site: _Site) -> str | None:
    for name in value:
        if reason := site.find(name, schema):
            return f"{site.place}: the name of a property does not fit ({reason})"
    return None


def _condition(value: Any, schema: Any, site: _Site) -> str | None:
    name = "else" if site.find(value, schema) else "then"
    return site.find(value, site.schema.get(name, True))


def _dependent(value: Any, parts: dict[str, Any], site: _Site) -> str | None:
    """Hold an object against what the presence of a property asks for: other properties, or a schema."""
    for name, part in parts.items():
        if name in value:
            reason = _required(value, part, site) if isinstance(part, list) else site.find(value, part)
            if reason:
                return reason
    return None


def _contains(value: Any, schema: Any, site: _Site) -> str | None:
    count = sum(site.find(item, schema) is None for item in value)
    low, high = site.schema.get("minContains", 1), site.schema.get("maxContains", count)
    return None if low <= count <= high else f"{site.place}: {count} items are as they must be, not {low} or more"


def _evaluated(value: Any, schema: Any, site: _Site) -> set[Any]:
    """Return the properties or items of a value that a schema, or one in it, says something about."""
    site.spend(1)
    if isinstance(schema, bool):
        return set()
    keys = range(len(value)) if isinstance(value, list) else value
    names, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    found: set[Any] = set()
    if isinstance(value, list):
        found = {key for key in keys if "items" in schema or key < len(schema.get("prefixItems", ()))}
        if "contains" in schema:
            found |= {key for key in keys if site.find(value[key], schema["contains"]) is None}
    else:
        written = [compile_pattern(pattern) for pattern in patterns]
        matching = (one for one in keys if any(pattern.matches(str(one), site.spend) for pattern in written))
        found = {*(keys if "additionalProperties" in schema else ()), *(names.keys() & keys), *matching}
    parts = [part for name in ("allOf", "anyOf", "oneOf") for part in schema.get(name, ())]
    parts += [site.run.resolve(schema["$ref"])] if "$ref" in schema else []
    parts += [part for name, part in schema.get("dependentSchemas", {}).items() if name in keys]
    if "if" in schema:
        does_hold = site.find(value, schema["if"]) is None
        parts += [schema["if"]] if does_hold else []
        parts.append(schema.get("then" if does_hold else "else", True))
    return found.union(*(_evaluated(value, part, site) for part in parts if site.find(value, part) is None))


def _unevaluated(value: Any, schema: Any, site: _Site) -> str | None:
    done = _evaluated(value, site.schema, site)
    for key in range(len(value)) if isinstance(value, list) else value:
        if key not in done and (reason := site.find(value[key], schema, at=f".{key}")):
            return reason
    return None


def _prefix_items(value: Any, schemas: list[Any], site: _Site) -> str | None:
    for index, (item, schema) in enumerate(zip(value, schemas, strict=False)):
        if reason := site.find(item, schema, at=f"[{index}]"):
            return reason
    return None


def _items(value: Any, schema: Any, site: _Site) -> str | None:
    if isinstance(schema, list):
        return _prefix_items(value, schema, site)
    for index in range(len(site.schema.get("prefixItems", ())), len(value)):
        if reason := site.find(value[index], schema, at=f"[{index}]"):
            return reason
    return None


def _additional_items(value: Any, schema: Any, site: _Site) -> str | None:
    """Hold the items that come after a list of schemas, which ``items`` was before the draft of 2020."""
    first = site.schema.get("items")
    for index in range(len(first), len(value)) if isinstance(first, list) else ():
        if reason := site.find(value[index], schema, at=f"[{index}]"):
            return reason
    return None


def _unique_items(value: Any, wanted: bool, site: _Site) -> str | None:  # noqa: FBT001
    if not wanted or len({freeze(item) for item in value}) == len(value):
        return None
    return f"{site.place}: an item is there twice"


def _pattern(value: Any, pattern: str, site: _Site) -> str | None:
    if compile_pattern(pattern).matches(value, site.spend):
        return None
    return f"{site.place}: {show(value)} does not match {pattern}"


def _multiple_of(value: Any, divisor: Any, site: _Site) -> str | None:
    # By decimal digits, as a reader of the JSON would: 0.3 is a multiple of 0.1, which binary fractions deny.
    if Fraction(repr(value)) % Fraction(repr(divisor)) == 0:
        return None
    return f"{site.place}: {show(value)} is not a multiple of {divisor}"


def _bound(holds: Callable[[Any, Any], bool], words: str) -> Check:
    def check(value: Any, bound: Any, site: _Site) -> str | None:
        if isinstance(bound, bool):  # of draft 4, beside the bound itself
            beside = site.schema.get("minimum" if holds is operator.gt else "maximum", None)
            return check(value, beside, site) if bound and beside is not None else None
        return None if holds(value, bound) else f"{site.place}: {show(value)} {words} {bound}"

    return check


def _beside(*_: Any) -> None:
    """Say nothing: the keyword beside it reads this one."""


def show(value: Any) -> str:
    """Return a value as Python writes it, cut short before it is written and after."""
    try:
        text = repr(value[:MAX_SHOWN]) if isinstance(value, str) else reprlib.repr(value)
    except ValueError:
        text = "a number of thousands of digits"
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


_OBJECT, _ARRAY, _STRING, _NUMBER = (dict,), (list,), (str,), (int, float)
TYPES: dict[str, tuple[type, ...]] = {
    "array": _ARRAY, "boolean": (bool,), "integer": _NUMBER, "null": (type(None),), "number": _NUMBER,
    "object": _OBJECT, "string": _STRING,
}  # fmt: skip

KEYWORDS: dict[str, tuple[tuple[type, ...] | None, Check]] = {
    "type": (None, _type),
    "enum": (None, _enum),
    "const": (None, _const),
    "$ref": (None, _reference),
    "allOf": (None, _all_of),
    "anyOf": (None, _any_of),
    "oneOf": (None, _one_of),
    "not": (None, _not),
    "if": (None, _condition),
    "then": (None, _beside),
    "else": (None, _beside),
    "nullable": (None, _beside),
    "properties": (_OBJECT, _properties),
    "patternProperties": (_OBJECT, _pattern_properties),
    "additionalProperties": (_OBJECT, _additional_properties),
    "required": (_OBJECT, _required),
    "propertyNames": (_OBJECT, _property_names),
    "dependentRequired": (_OBJECT, _dependent),
    "dependentSchemas": (_OBJECT, _dependent),
    "dependencies": (_OBJECT, _dependent),
    "unevaluatedProperties": (_OBJECT, _unevaluated),
    "minProperties": (_OBJECT, _bound(lambda value, bound: len(value) >= bound, "has fewer properties than")),
    "maxProperties": (_OBJECT, _bound(lambda value, bound: len(value) <= bound, "has more properties than")),
    "prefixItems": (_ARRAY, _prefix_items),
    "items": (_ARRAY, _items),
    "additionalItems": (_ARRAY, _additional_items),
    "contains": (_ARRAY, _contains),
    "minContains": (_ARRAY, _beside),
    "maxContains": (_ARRAY, _beside),
    "unevaluatedItems": (_ARRAY, _unevaluated),
    "minItems": (_ARRAY, _bound(lambda value, bound: len(value) >= bound, "has fewer items than")),
    "maxItems": (_ARRAY, _bound(lambda value, bound: len(value) <= bound, "has more items than")),
    "uniqueItems": (_ARRAY, _unique_items),
    "minLength": (_STRING, _bound(lambda value, bound: len(value) >= bound, "is shorter than")),
    "maxLength": (_STRING, _bound(lambda value, bound: len(value) <= bound, "is longer than")),
    "pattern": (_STRING, _pattern),
    "minimum": (_NUMBER, _bound(operator.ge, "is below")),
    "maximum": (_NUMBER, _bound(operator.le, "is above")),
    "exclusiveMinimum": (_NUMBER, _bound(operator.gt, "is not above")),
    "exclusiveMaximum": (_NUMBER, _bound(operator.lt, "is not below")),
    "multipleOf": (_NUMBER, _multiple_of),
}
"""Each keyword with the types of the values that it says something about (None: all), and its check."""
