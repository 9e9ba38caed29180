"""The schema that llama-server is sent: what it would ignore or misread, in the keywords that it generates by.

Beside ``$ref``, ``anyOf``, ``enum`` and the like it reads no other keyword; it takes ``items`` for ``prefixItems``, and
knows no schema that is a boolean. What cannot be said to it is left out; answers are held against the schema itself.
"""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import islice, zip_longest
from math import ceil, floor
from operator import gt, lt
from typing import TYPE_CHECKING, Any, ClassVar

from llcuda.errors import UsageError
from llcuda.schema.pattern import compile_pattern
from llcuda.schema.validate import KEYWORDS, find_mismatch, freeze, resolve_reference

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["constrain"]

_WHOLE = "whole"
MAX_SCHEMAS = 1 << 14
"""Schemas that are written, each ``allOf`` and each alternative with what stands beside it written out."""
_MOST_LISTED = 201
"""Numbers that are listed one by one: from 0 to 1 by hundredths, or the multiples within the bounds."""
_MOST_RANGE = 10
_MOST_MORE_ITEMS = 8
_MOST_WHOLE = 10**15 - 1
"""llama-server generates whole numbers of up to 16 digits."""
_MOST_SPELLED = 64
_BEHIND_A_CLASS = re.compile(r'[\]\\^"\x00-\x1f-]').search
_FORMATS = {
    "duration": r"^P(\d+W|\d+[YMD](T\d+[HMS])?|T\d+[HMS])$",
    "email": r"^[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*@([A-Za-z0-9]+\.)+[A-Za-z]{2,}$",
    "hostname": r"^[a-z0-9]{1,63}(\.[a-z0-9]{1,63})*$",
    "ipv4": r"^((25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)$",
    "ipv6": r"^([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}$",
    "uri": r"^[a-z][a-z0-9+.-]*:[A-Za-z0-9:/?#@!$&'()*+,;=._~-]+$",
}
"""Formats that llama-server does not know, as patterns."""
_KINDS = {
    "object": ("properties", "required", "additionalProperties", "patternProperties", "propertyNames", "minProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "contains", "uniqueItems"),
    "string": ("pattern", "minLength", "maxLength"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
"""Of which type values are if only keywords of this kind say something about them."""
_DEFINITIONS = frozenset({"$defs", "definitions", "$id", "$schema", "$anchor"})


def constrain(document: dict[str, Any], *, is_shown: bool = False) -> dict[str, Any]:
    """Return the schema for llama-server of one that was checked; if the model is shown it, no numbers are listed.

    Raises UsageError for one that no value holds to, and for one that would be too large with its parts written out.
    """
    writer = _Writer(document, is_shown=is_shown)
    try:
        written = writer.write(document)
        writer.write_definitions()
    except RecursionError:
        raise UsageError("the schema is nested too deeply") from None
    if written is False:
        raise UsageError("the schema contradicts itself: no value holds to it")
    definitions = writer.definitions
    if "" in written.get("properties", {}):
        # llama-server names a rule after each property, and would take this one's for the rule of the whole.
        definitions, written = {**definitions, _WHOLE: written}, {"$ref": f"#/$defs/{_WHOLE}"}
    return {**written, "$defs": definitions} if definitions else written


class _Writer:
    """Writes one document."""

    def __init__(self, document: dict[str, Any], *, is_shown: bool) -> None:
        self.definitions: dict[str, Any] = {}
        self._is_shown = is_shown
        self._document = document
        self._expanded: dict[str, Any] = {}
        self._names: dict[str, str] = {}
        self._left = MAX_SCHEMAS

    def write_definitions(self) -> None:
        """Write what the references lead to, and what the references in there do."""
        while len(self.definitions) < len(self._names):
            reference, name = next(islice(self._names.items(), len(self.definitions), None))
            self.definitions[name] = self.write(resolve_reference(reference, self._document)) or {}

    def _spend(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise UsageError(f"the schema comes to more than {MAX_SCHEMAS} schemas with its parts written out")

    def write(self, schema: Any) -> Any:  # noqa: PLR0911 - a case each
        """Return a schema for llama-server, False if no value holds to it."""
        self._spend()
        flat = self._flatten(schema)
        if flat is False:
            return False
        if flat.pop("nullable", None) is True:
            notes, rest = _split(flat)
            return {**notes, "anyOf": [*filter(None, [self.write(rest)]), {"type": "null"}]}
        if "$ref" in flat:
            return {**flat, "$ref": self._refer(flat["$ref"])}
        if "if" in flat:
            first, then, other = (flat.pop(name, True) for name in ("if", "then", "else"))
            return self._write_choice(flat, "anyOf", [{"allOf": [first, then]}, other])
        for keyword in ("anyOf", "oneOf"):
            if keyword in flat:
                return self._write_choice(flat, keyword, flat.pop(keyword))
        if "const" in flat or "enum" in flat:
            return self._write_values(flat)
        kinds: Any = flat.get("type") or next((kind for kind, names in _KINDS.items() if flat.keys() & set(names)), [])
        if isinstance(kinds, str):
            return self._write_kind(flat, kinds)
        parts = [self._write_kind(flat, kind) for kind in kinds]
        if all(part == {**flat, "type": kind} for part, kind in zip(parts, kinds, strict=True)):
            return flat
        return _among("anyOf", parts)

    def _write_choice(self, base: dict[str, Any], keyword: str, parts: list[Any]) -> Any:
        """Write alternatives, each with what stands beside them."""
        notes, beside = _split(base)
        written = [self.write(self._narrow(beside, part)) for part in parts]
        among = _among(keyword, written)
        return among and {**notes, **among}

    def _narrow(self, beside: dict[str, Any], part: Any) -> Any:
        """Return an alternative with what stands beside it; itself if that says no more."""
        if not beside:
            return part
        expanded = self._expand(part)
        merged = expanded is not False and _merge(beside, expanded)
        return part if merged == expanded else merged

    def _flatten(self, schema: Any) -> Any:
        """Return a schema without ``allOf``, and with ``$ref`` only if it stands alone."""
        self._spend()
        if isinstance(schema, bool):
            return {} if schema else False
        notes, rest = _split(schema)
        parts = rest.pop("allOf", [])
        if rest and "$ref" in rest and (len(rest) > 1 + ("nullable" in rest) or parts):
            parts = [{"$ref": rest.pop("$ref")}, *parts]
        if len(parts) == 1 and not rest.keys() - {"nullable"}:
            only = self._flatten(parts[0])
            return only is not False and {**only, **notes, **rest}
        merged: Any = rest
        for part in parts:
            expanded = self._expand(part)
            merged = merged is not False and expanded is not False and _merge(merged, expanded)
        return merged is not False and _tighten({**notes, **merged})

    def _expand(self, part: Any) -> Any:
        """Return a flat schema with a reference followed."""
        flat = self._flatten(part)
        if flat is False or "$ref" not in flat:
            return flat
        reference = flat["$ref"]
        if reference not in self._expanded:
            self._expanded[reference] = self._expand(resolve_reference(reference, self._document))
        return self._expanded[reference]

    def _refer(self, reference: str) -> str:
        if reference not in self._names:
            name = re.sub(r"[^A-Za-z0-9_.-]", "-", reference.rpartition("/")[2].lstrip("#"))[:60] or "root"
            while name in self._names.values():
                name += "_"
            self._names[reference] = name
        return f"#/$defs/{self._names[reference]}"

    def _write_values(self, flat: dict[str, Any]) -> Any:
        """Write the values that hold to everything else."""
        values = [flat.pop("const")] if "const" in flat else flat["enum"]
        rest = {name: item for name, item in flat.items() if name != "enum" and name in KEYWORDS}
        if rest:
            rest = {**rest, **{name: self._document[name] for name in _DEFINITIONS & self._document.keys()}}
            values = [value for value in values if find_mismatch(value, rest) is None]
        notes, _ = _split(flat)
        return bool(values) and {**notes, **({"type": flat["type"]} if "type" in flat else {}), "enum": values}

    def _write_kind(self, flat: dict[str, Any], kind: str) -> Any:
        write = self._KINDS.get(kind)
        return write(self, {**flat, "type": kind}) if write else {**flat, "type": kind}

    def _write_object(self, flat: dict[str, Any]) -> Any:
        properties, patterns = dict(flat.get("properties", {})), flat.pop("patternProperties", {})
        more = flat.get("additionalProperties", flat.pop("unevaluatedProperties", None))
        required, names = flat.get("required", []), self._find_names(flat.pop("propertyNames", True))

        def other(name: str) -> Any:
            found = [part for pattern, part in patterns.items() if compile_pattern(pattern).matches(name)]
            return {"allOf": found} if found else True if more is None else more

        if flat.get("maxProperties") == 0:
            names = []
        is_open = more is None and "properties" not in flat and names is None
        if names is not None:
            properties = {name: properties.get(name, other(name)) for name in names}
        properties |= {name: other(name) for name in required if name not in properties and names is None}
        written = {name: part for name, one in properties.items() if (part := self.write(one)) is not False}
        if set(required) - set(written):
            return False
        if patterns and names is None:
            more = {"anyOf": [*patterns.values(), *([more] if isinstance(more, dict) else [])]}
        elif is_open and properties:
            more = True
        if names is not None or (more is not False and any(map(_BEHIND_A_CLASS, properties))):
            more = False if more is not None or names is not None else None
        if written or "properties" in flat or names is not None:
            flat["properties"] = written
        if more is not None:
            rest = self.write(more)
            flat["additionalProperties"] = rest if rest or rest is False else True
        return flat

    def _find_names(self, schema: Any) -> list[str] | None:
        """Return the names that properties can have, None if they are not listed."""
        flat = self._expand(schema)
        if flat is False:
            return []
        values = [flat["const"]] if "const" in flat else flat.get("enum")
        return None if values is None else [value for value in values if isinstance(value, str)]

    def _write_array(self, flat: dict[str, Any]) -> Any:
        prefix, items = flat.pop("prefixItems", []), flat.get("items", flat.pop("unevaluatedItems", None))
        more = flat.pop("additionalItems", None)
        if isinstance(items, list):
            prefix, items = items, more
        low, high = int(flat.get("minItems", len(prefix))), flat.get("maxItems")
        rest = None if items is None else self.write(items)
        written = [self.write(part) for part in prefix]
        stops = [at for at, part in enumerate([*written, rest]) if part is False]
        high = min([*stops[:1], *([] if high is None else [int(high)])], default=None)
        if high is not None and "minItems" not in flat:
            low = min(low, high)
        if high is not None and low > high:
            return False
        if not prefix:
            flat |= {} if rest is None else {"items": rest or {}}
            return {**flat, "maxItems": high} if high is not None else flat
        flat.pop("items", None)
        most = max(low, len(prefix)) + (0 if items is None else _MOST_MORE_ITEMS)
        most = most if high is None else min(most, high)
        tuples = [[*written, *[rest or {}] * max(0, count - len(prefix))][:count] for count in range(low, most + 1)]
        return _among("anyOf", [{**flat, "prefixItems": parts} for parts in tuples])

    def _write_string(self, flat: dict[str, Any]) -> Any:
        low, high = int(flat.get("minLength", 0)), flat.get("maxLength")
        pattern = flat.get("pattern", _FORMATS.get(str(flat.get("format"))))
        if pattern is not None:
            flat["pattern"] = compile_pattern(pattern).write((low, high))
        return False if high is not None and low > high else flat

    def _write_number(self, flat: dict[str, Any]) -> Any:
        low, high, step = flat.get("minimum"), flat.get("maximum"), flat.get("multipleOf")
        is_above, is_below = (flat.get(name) is not None for name in ("exclusiveMinimum", "exclusiveMaximum"))
        low, high = flat.get("exclusiveMinimum", low), flat.get("exclusiveMaximum", high)
        unit = _exact(step) if step is not None else None
        if flat["type"] == "integer" or (unit is not None and unit.denominator == 1):
            return _write_integer(flat, _exact(low), _exact(high), unit=unit, is_open=(is_above, is_below))
        if low is None or high is None:
            return flat
        first, last = _exact(low), _exact(high)
        if first > last or (first == last and (is_above or is_below)):
            return False
        if unit is None and last - first <= _MOST_RANGE and not self._is_shown:
            unit = Fraction(1)
            while first < last and (last - first) / unit * 10 < _MOST_LISTED:
                unit /= 10
        return _list_multiples(flat, first, last, unit=unit, is_open=(is_above, is_below)) or flat

    _KINDS: ClassVar[dict[str, Callable[[_Writer, dict[str, Any]], Any]]] = {
        "object": _write_object, "array": _write_array, "string": _write_string, "integer": _write_number,
        "number": _write_number,
    }  # fmt: skip


def _write_integer(
    flat: dict[str, Any], low: Any, high: Any, *, unit: Fraction | None, is_open: tuple[bool, bool]
) -> Any:
    """Write both bounds if there is one; of a lower one alone, llama-server takes 10 to be above 100."""
    flat["type"] = "integer"
    unit = Fraction(1) if unit is None else Fraction(unit.numerator)
    least = -_MOST_WHOLE if low is None else floor(low) + 1 if is_open[0] else ceil(low)
    most = _MOST_WHOLE if high is None else ceil(high) - 1 if is_open[1] else floor(high)
    least, most = max(least, -_MOST_WHOLE), min(most, _MOST_WHOLE)
    if least > most:
        return False
    if unit > 1 and (listed := _list_multiples(flat, least, most, unit=unit, is_open=(False, False))) is not None:
        return listed
    if low is None and high is None:
        return flat
    return {**_without(flat, "exclusiveMinimum", "exclusiveMaximum"), "minimum": least, "maximum": most}


def _list_multiples(
    flat: dict[str, Any], low: Any, high: Any, *, unit: Fraction | None, is_open: tuple[bool, bool]
) -> Any:
    """List the multiples of a unit, None if there are too many; False if there is none."""
    if unit is None or (high - low) / unit > _MOST_LISTED:
        return None
    every = [at * unit for at in range(ceil(low / unit), floor(high / unit) + 1)]
    kept = [one for one in every if not (is_open[0] and one == low) and not (is_open[1] and one == high)]
    notes, _ = _split(flat)
    return bool(kept) and {**notes, "type": flat["type"], "enum": [int(n) if n == int(n) else float(n) for n in kept]}


def _exact(number: Any) -> Any:
    return None if number is None else Fraction(repr(number))


def _without(schema: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name not in names}


def _among(keyword: str, parts: list[Any]) -> Any:
    kept = [part for part in parts if part is not False]
    return False if not kept else kept[0] if len(kept) == 1 else {keyword: kept}


def _split(schema: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a schema says to a reader, and what it says of values."""
    notes = {name: value for name, value in schema.items() if name not in KEYWORDS and name not in _DEFINITIONS}
    rest = {name: value for name, value in schema.items() if name in KEYWORDS}
    for name in ("format",):
        if name in notes:
            rest[name] = notes.pop(name)
    return notes, _tighten(rest)


def _tighten(schema: dict[str, Any]) -> dict[str, Any]:
    """Write the bounds of draft 4 as numbers, and of two lower or upper bounds the one that matters."""
    found = dict(schema)
    for bound, strict, is_tighter in (
        ("minimum", "exclusiveMinimum", gt),
        ("maximum", "exclusiveMaximum", lt),
    ):
        if isinstance(found.get(strict), bool):
            is_strict = found.pop(strict)
            if is_strict and bound in found:
                found[strict] = found.pop(bound)
        elif bound in found and strict in found:
            found.pop(strict if is_tighter(found[bound], found[strict]) else bound)
    return found


def _merge(one: dict[str, Any], other: dict[str, Any]) -> Any:
    """Return a flat schema that holds what both hold, as far as it can be said; False if nothing can."""
    merged = dict(one)
    for keyword, value in other.items():
        if keyword not in merged:
            merged[keyword] = value
        elif merged[keyword] != value and keyword in _MERGES:
            merged[keyword] = _MERGES[keyword](merged[keyword], value)
            if merged[keyword] == []:
                return False
    if properties := _merge_properties(one, other):
        merged["properties"] = properties
    return merged


def _merge_properties(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return the properties of both; one that only one of them names is an additional one for the other."""
    found: dict[str, Any] = {}
    for name in [*one.get("properties", {}), *other.get("properties", {})]:
        parts = [part.get("properties", {}).get(name, part.get("additionalProperties", True)) for part in (one, other)]
        kept = [part for part in parts if part is not True]
        found[name] = kept[0] if len(kept) == 1 else {"allOf": kept} if kept else True
    return found


def _both(one: Any, other: Any) -> dict[str, Any]:
    return {"allOf": [one, other]}


def _both_of_each(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {name: _both(one[name], other[name]) if name in one and name in other else one.get(name, other.get(name))
            for name in [*one, *other]}  # fmt: skip


def _common_types(one: Any, other: Any) -> Any:
    sides = [[kinds] if isinstance(kinds, str) else list(kinds) for kinds in (one, other)]
    for side, opposite in (sides, sides[::-1]):
        if "number" in side and "integer" in opposite and "integer" not in side:
            side[:] = ["integer" if kind == "number" else kind for kind in side]
    common = [kind for kind in sides[0] if kind in sides[1]]
    return common[0] if len(common) == 1 else common


def _product(one: list[Any], other: list[Any]) -> list[Any]:
    """Return all pairs of alternatives; if there are too many, those of one side alone."""
    return [_both(a, b) for a in one for b in other] if len(one) * len(other) <= _MOST_SPELLED else one


_MERGES: dict[str, Callable[[Any, Any], Any]] = {
    "type": _common_types,
    "enum": lambda one, other: [value for value in one if freeze(value) in {freeze(item) for item in other}],
    "const": lambda *_: [],
    "required": lambda one, other: list(dict.fromkeys([*one, *other])),
    "items": _both,
    "additionalProperties": _both,
    "propertyNames": _both,
    "patternProperties": _both_of_each,
    "prefixItems": lambda one, other: [_both(*pair) for pair in zip_longest(one, other, fillvalue=True)],
    "anyOf": _product,
    "oneOf": _product,
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"), max),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), min),
}
