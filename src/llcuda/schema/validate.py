"""Hold a value against a JSON schema that was checked before (the 2020-12 draft's meaning of its keywords).

It is our own because its work must be bounded whatever the schema: at most 1,000,000 steps and 100 levels of a value.
"""

from __future__ import annotations

import operator
import reprlib
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import takewhile
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from llcuda.schema.pattern import compile_pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Check = Callable[[Any, Any, "Site"], str | None]

__all__ = ["KEYWORDS", "MAX_SHOWN", "TYPES", "Run", "Site", "find_mismatch", "freeze", "resolve_reference", "show"]

# Both bounds are far above what a model writes. They are there for schemas that refer to themselves: the work can
# double with every level of the value.
MAX_DEPTH = 100
MAX_STEPS = 1_000_000
MAX_SHOWN = 60
_MAX_INDEX_DIGITS = 9
_MAX_WHOLE = 2**64
"""llama-server keeps a number from here on with 53 bits, and writes 1e+30."""


def find_mismatch(value: Any, document: dict[str, Any]) -> str | None:
    """Return where and why a value does not hold to the schema, None if it does.

    A value nested deeper than 100 levels, or one that takes more than a million steps, does not hold.
    """
    try:
        return Site(Run(document), document).find(value, document)
    except RecursionError:
        return "it is nested too deeply to be checked"


def freeze(value: Any) -> Any:
    """Return something hashable that is equal for values that are equal in JSON: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, list):
        return ("array", tuple(map(freeze, value)))
    if isinstance(value, dict):
        return ("object", frozenset((name, freeze(item)) for name, item in value.items()))
    if isinstance(value, int) and abs(value) >= _MAX_WHOLE:
        with suppress(OverflowError):
            return float(value)
    return value


def resolve_reference(reference: str, document: Any) -> Any:
    """Return the part of the document that ``#/a/b`` points to, raising KeyError if there is none."""
    part = document
    for name in unquote(reference).split("/")[1:]:
        key = name.replace("~1", "/").replace("~0", "~")
        is_index = isinstance(part, list) and key.isdecimal() and len(key) <= _MAX_INDEX_DIGITS
        part = part[int(key)] if is_index else part[key]
    return part


def _find_anchors(part: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(part, dict) and isinstance(part.get("$anchor"), str):
        yield part["$anchor"], part
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from _find_anchors(inner)


@dataclass(slots=True)
class Run:
    """One validation: the document's references, each followed once, and how many steps were taken."""

    document: dict[str, Any]
    steps: int = 0
    _found: dict[str, Any] = field(default_factory=dict)
    _anchors: dict[str, Any] | None = None

    def resolve(self, reference: str) -> Any:
        """Return what a reference leads to. Raises KeyError, IndexError or TypeError if that is nothing."""
        if reference[1:2] not in {"", "/"}:
            self._anchors = dict(_find_anchors(self.document)) if self._anchors is None else self._anchors
            return self._anchors[reference[1:]]
        if reference not in self._found:
            self._found[reference] = resolve_reference(reference, self.document)
        return self._found[reference]


@dataclass(slots=True)
class Site:
    """Where a keyword stands: the schema around it, the place of the value, and how deep that is."""

    run: Run
    schema: dict[str, Any]
    place: str = "$"
    depth: int = 0

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
        site = Site(self.run, schema, place, self.depth + 1)
        for keyword, argument in schema.items():
            if keyword in KEYWORDS:
                kinds, check = KEYWORDS[keyword]
                if (kinds is None or type(value) in kinds) and (reason := check(value, argument, site)):
                    return reason
        return None

    def find_in(self, value: Any, pairs: Iterable[tuple[Any, Any]]) -> str | None:
        """Hold properties or items of a value, each against its schema."""
        is_list = isinstance(value, list)
        for key, schema in pairs:
            if reason := self.find(value[key], schema, at=f"[{key}]" if is_list else f".{key}"):
                return reason
        return None

    def matches(self, pattern: str, name: str) -> bool:
        """Tell whether a pattern matches a name, and count the work."""
        return compile_pattern(pattern).matches(name, self.spend)

    def spend(self, steps: int) -> None:
        """Count work; what takes more than a million steps is given up."""
        self.run.steps += steps
        if self.run.steps > MAX_STEPS:
            raise RecursionError


def _is_type(value: Any, name: str) -> bool:
    if type(value) is float and name in {"integer", "number"}:
        return value.is_integer() if name == "integer" else value - value == 0
    return type(value) in TYPES[name]


def _type(value: Any, names: Any, site: Site) -> str | None:
    names = [names] if isinstance(names, str) else names
    if any(_is_type(value, name) for name in names):
        return None
    return f"{site.place}: {show(value)} is not of type {' or '.join(names)}"


def _enum(value: Any, allowed: list[Any], site: Site) -> str | None:
    site.spend(len(allowed))
    frozen = freeze(value)
    if any(frozen == freeze(one) for one in allowed):
        return None
    return f"{site.place}: {show(value)} is not one of {show(allowed)}"


def _const(value: Any, only: Any, site: Site) -> str | None:
    return None if freeze(value) == freeze(only) else f"{site.place}: {show(value)} is not {show(only)}"


def _reference(value: Any, reference: str, site: Site) -> str | None:
    return site.find(value, site.run.resolve(reference))


def _all_of(value: Any, schemas: list[Any], site: Site) -> str | None:
    return next(filter(None, (site.find(value, schema) for schema in schemas)), None)


def _any_of(value: Any, schemas: list[Any], site: Site) -> str | None:
    reasons = [*takewhile(bool, (site.find(value, schema) for schema in schemas))]
    if len(reasons) < len(schemas):
        return None
    return f"{site.place}: none of {len(schemas)} alternatives fits ({reasons[0]})"


def _one_of(value: Any, schemas: list[Any], site: Site) -> str | None:
    fitting = sum(site.find(value, schema) is None for schema in schemas)
    return None if fitting == 1 else f"{site.place}: {fitting} of {len(schemas)} alternatives fit, not one"


def _not(value: Any, schema: Any, site: Site) -> str | None:
    return f"{site.place}: {show(value)} is what it must not be" if site.find(value, schema) is None else None


def _condition(value: Any, schema: Any, site: Site) -> str | None:
    return site.find(value, site.schema.get("else" if site.find(value, schema) else "then", True))


def _properties(value: Any, schemas: dict[str, Any], site: Site) -> str | None:
    return site.find_in(value, (pair for pair in schemas.items() if pair[0] in value))


def _pattern_properties(value: Any, schemas: dict[str, Any], site: Site) -> str | None:
    site.spend(len(schemas) * len(value))
    pairs = schemas.items()
    return site.find_in(value, ((name, part) for one, part in pairs for name in value if site.matches(one, name)))


def _additional_properties(value: Any, schema: Any, site: Site) -> str | None:
    known, patterns = site.schema.get("properties", {}), site.schema.get("patternProperties", {})
    site.spend(len(patterns) * len(value))
    rest = (name for name in value if name not in known and not any(site.matches(one, name) for one in patterns))
    if schema is False and (name := next(rest, None)) is not None:
        return f"{site.place}: there is no property {name!r}"
    return site.find_in(value, ((name, schema) for name in rest))


def _required(value: Any, names: list[str], site: Site) -> str | None:
    missing = [name for name in names if name not in value]
    return f"{site.place}: {', '.join(missing)} is missing" if missing else None


def _property_names(value: Any, schema: Any, site: Site) -> str | None:
    reason = next(filter(None, (site.find(name, schema) for name in value)), None)
    return reason and f"{site.place}: the name of a property does not fit ({reason})"


def _dependent(value: Any, parts: dict[str, Any], site: Site) -> str | None:
    """Hold an object against what the presence of a property asks for: other properties, or a schema."""
    asked = (part for name, part in parts.items() if name in value)
    return _all_of(value, [{"required": part} if isinstance(part, list) else part for part in asked], site)


def _contains(value: Any, schema: Any, site: Site) -> str | None:
    count = sum(site.find(item, schema) is None for item in value)
    low, high = site.schema.get("minContains", 1), site.schema.get("maxContains", count)
    return None if low <= count <= high else f"{site.place}: {count} items are as they must be, not {low} or more"


def _evaluated(value: Any, schema: Any, site: Site) -> set[Any]:
    """Return the properties or items of a value that a schema, or one in it, says something about."""
    site.spend(1)
    if isinstance(schema, bool):
        return set()
    keys = range(len(value)) if isinstance(value, list) else value
    if isinstance(value, list):
        found = {key for key in keys if "items" in schema or key < len(schema.get("prefixItems", ()))}
        if "contains" in schema:
            found |= {key for key in keys if site.find(value[key], schema["contains"]) is None}
    else:
        patterns = schema.get("patternProperties", {})
        found = {key for key in keys if "additionalProperties" in schema or key in schema.get("properties", {})}
        found |= {key for key in keys if any(site.matches(one, str(key)) for one in patterns)}
    parts = [part for name in ("allOf", "anyOf", "oneOf") for part in schema.get(name, ())]
    parts += [site.run.resolve(schema["$ref"])] if "$ref" in schema else []
    parts += [part for name, part in schema.get("dependentSchemas", {}).items() if name in keys]
    if "if" in schema:
        does_hold = site.find(value, schema["if"]) is None
        parts += [schema["if"], schema.get("then", True)] if does_hold else [schema.get("else", True)]
    return found.union(*(_evaluated(value, part, site) for part in parts if site.find(value, part) is None))


def _unevaluated(value: Any, schema: Any, site: Site) -> str | None:
    done = _evaluated(value, site.schema, site)
    keys = range(len(value)) if isinstance(value, list) else value
    return site.find_in(value, ((key, schema) for key in keys if key not in done))


def _prefix_items(value: Any, schemas: list[Any], site: Site) -> str | None:
    return site.find_in(value, enumerate(schemas[: len(value)]))


def _items(value: Any, schema: Any, site: Site) -> str | None:
    if isinstance(schema, list):
        return _prefix_items(value, schema, site)
    return site.find_in(value, ((at, schema) for at in range(len(site.schema.get("prefixItems", ())), len(value))))


def _additional_items(value: Any, schema: Any, site: Site) -> str | None:
    """Hold the items that come after a list of schemas, which ``items`` was before the draft of 2020."""
    first = site.schema.get("items")
    rest = range(len(first), len(value)) if isinstance(first, list) else ()
    return site.find_in(value, ((at, schema) for at in rest))


def _unique_items(value: Any, wanted: bool, site: Site) -> str | None:  # noqa: FBT001
    if not wanted or len(set(map(freeze, value))) == len(value):
        return None
    return f"{site.place}: an item is there twice"


def _pattern(value: Any, pattern: str, site: Site) -> str | None:
    return None if site.matches(pattern, value) else f"{site.place}: {show(value)} does not match {pattern}"


def _multiple_of(value: Any, divisor: Any, site: Site) -> str | None:
    # By decimal digits, as a reader of the JSON would: 0.3 is a multiple of 0.1, which binary fractions deny.
    if Fraction(repr(value)) % Fraction(repr(divisor)) == 0:
        return None
    return f"{site.place}: {show(value)} is not a multiple of {divisor}"


def _bound(holds: Callable[[Any, Any], bool], words: str) -> Check:
    def check(value: Any, bound: Any, site: Site) -> str | None:
        if isinstance(bound, bool):  # of draft 4, beside the bound itself
            beside = site.schema.get("minimum" if holds is operator.gt else "maximum", None)
            return check(value, beside, site) if bound and beside is not None else None
        measured = value if type(value) in _NUMBER else len(value)
        return None if holds(measured, bound) else f"{site.place}: {show(value)} {words} {bound}"

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

_CHECKS: dict[tuple[type, ...] | None, dict[str, Check]] = {
    None: {
        "type": _type, "enum": _enum, "const": _const, "$ref": _reference, "allOf": _all_of, "anyOf": _any_of,
        "oneOf": _one_of, "not": _not, "if": _condition, "then": _beside, "else": _beside, "nullable": _beside,
    },
    _OBJECT: {
        "properties": _properties, "patternProperties": _pattern_properties, "propertyNames": _property_names,
        "additionalProperties": _additional_properties, "unevaluatedProperties": _unevaluated, "required": _required,
        "dependentRequired": _dependent, "dependentSchemas": _dependent, "dependencies": _dependent,
        "minProperties": _bound(operator.ge, "has fewer properties than"),
        "maxProperties": _bound(operator.le, "has more properties than"),
    },
    _ARRAY: {
        "prefixItems": _prefix_items, "items": _items, "additionalItems": _additional_items, "contains": _contains,
        "minContains": _beside, "maxContains": _beside, "unevaluatedItems": _unevaluated, "uniqueItems": _unique_items,
        "minItems": _bound(operator.ge, "has fewer items than"),
        "maxItems": _bound(operator.le, "has more items than"),
    },
    _STRING: {
        "minLength": _bound(operator.ge, "is shorter than"), "maxLength": _bound(operator.le, "is longer than"),
        "pattern": _pattern,
    },
    _NUMBER: {
        "minimum": _bound(operator.ge, "is below"), "maximum": _bound(operator.le, "is above"),
        "exclusiveMinimum": _bound(operator.gt, "is not above"),
        "exclusiveMaximum": _bound(operator.lt, "is not below"), "multipleOf": _multiple_of,
    },
}  # fmt: skip
KEYWORDS = {name: (kinds, check) for kinds, checks in _CHECKS.items() for name, check in checks.items()}
"""Each keyword with the types of the values that it says something about (None: all), and its check."""
