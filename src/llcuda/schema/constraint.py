"""The schema that llama-server is sent: what it would ignore or misread, in the keywords that it generates by.

Beside ``$ref``, ``anyOf``, ``enum`` and the like it reads no other keyword; it takes ``items`` for ``prefixItems``, and
knows no schema that is a boolean. What cannot be said to it is left out; answers are held against the schema itself.
"""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import zip_longest
from math import ceil, floor
from operator import gt, lt
from typing import TYPE_CHECKING, Any, ClassVar

from llcuda.errors import UsageError
from llcuda.schema.pattern import compile_pattern
from llcuda.schema.validate import KEYWORDS, TYPES, Run, Site, freeze

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["constrain"]

MAX_SCHEMAS = 1 << 14
"""Schemas that are written, each ``allOf`` and each alternative with what stands beside it written out."""
_MOST_LISTED = 201
"""Numbers that are listed one by one: from 0 to 1 by hundredths, or the multiples within the bounds."""
_MOST_RANGE = 10
_MOST_MORE_ITEMS = 8
_MOST_WHOLE = 10**15 - 1
"""llama-server generates whole numbers of up to 16 digits."""
_MOST_SPELLED = 64
_FORMATS = {
    "duration": r"^P(\d+W|\d+[YMD](T\d+[HMS])?|T\d+[HMS])$",
    "email": r"^[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*@([A-Za-z0-9]+\.)+[A-Za-z]{2,}$",
    "hostname": r"^[a-z0-9]{1,63}(\.[a-z0-9]{1,63})*$",
    "ipv4": r"^((25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)$",
    "ipv6": r"^([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}$",
    "uri": r"^[a-z][a-z0-9+.-]*:[A-Za-z0-9:/?#@!$&'()*+,;=._~-]+$",
}
"""Formats that llama-server does not know, as patterns."""
_SAID = KEYWORDS.keys() | {"format"}
_NOT_SENT = frozenset({"$defs", "components", "definitions", "$id", "$schema", "$anchor"})
_KINDS = {types: name for name, types in TYPES.items()}
_BY_KEYWORD = {name: _KINDS[types] for name, (types, _) in KEYWORDS.items() if types is not None}
"""Of which type values are if nothing else is said of them."""


def constrain(document: dict[str, Any], *, is_shown: bool = False) -> dict[str, Any]:
    """Return the schema for llama-server of one that was checked; if the model is shown it, no numbers are listed.

    Raises UsageError for one that no value holds to, and for one that would be too large with its parts written out.
    """
    writer = _Writer(document, is_shown=is_shown)
    try:
        written = writer.write(document)
        definitions = writer.write_definitions()
    except RecursionError:
        raise UsageError("the schema is nested too deeply, or takes too long to be written") from None
    if written is False:
        raise UsageError("the schema contradicts itself: no value holds to it")
    return {**written, "$defs": definitions} if definitions else dict(written)


class _Writer:
    """Writes one document."""

    def __init__(self, document: dict[str, Any], *, is_shown: bool) -> None:
        self._is_shown = is_shown
        self._site = Site(Run(document), document)
        self._expanded: dict[str, Any] = {}
        self._names: dict[str, str] = {}
        self._definitions: dict[str, Any] = {}
        self._unwritten: list[tuple[str, str]] = []
        self._left = MAX_SCHEMAS

    def write_definitions(self) -> dict[str, Any]:
        """Write what the references lead to, and what the references in there do."""
        for name, reference in self._unwritten:  # which become more meanwhile
            self._definitions[name] = self.write(self._site.run.resolve(reference)) or {}
        return self._definitions

    def _spend(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise UsageError(f"the schema comes to more than {MAX_SCHEMAS} schemas with its parts written out")

    def write(self, schema: Any) -> Any:
        """Return a schema for llama-server, False if no value holds to it."""
        self._spend()
        flat = self._flatten(schema)
        if flat is False:
            return False
        if flat.pop("nullable", None) is True:
            notes, rest = _split(flat)
            return self._write_choice(notes, "anyOf", [rest, {"type": "null"}])
        if "$ref" in flat:
            return {**flat, "$ref": self._refer(flat["$ref"])}
        if "if" in flat:
            first, then, other = (flat.pop(name, True) for name in ("if", "then", "else"))
            return self._write_choice(flat, "anyOf", [{"allOf": [first, then]}, other])
        for keyword in ("anyOf", "oneOf"):
            if keyword in flat:
                return self._write_choice(flat, keyword, flat.pop(keyword))
        return self._write_values(flat) if "const" in flat or "enum" in flat else self._write_kinds(flat)

    def _write_kinds(self, flat: dict[str, Any]) -> Any:
        found = {_BY_KEYWORD[name] for name in flat if name in _BY_KEYWORD}
        kinds: Any = flat.get("type") or next((kind for kind in self._KINDS if kind in found), [])
        if isinstance(kinds, str):
            return self._write_kind(flat, kinds)
        parts = [self._write_kind(flat, kind) for kind in kinds]
        if all(part == {**flat, "type": kind} for part, kind in zip(parts, kinds, strict=True)):
            return flat
        return _among("anyOf", parts)

    def _write_choice(self, base: dict[str, Any], keyword: str, parts: list[Any]) -> Any:
        """Write alternatives, each with what stands beside them."""
        notes, beside = _split(base)
        among = _among(keyword, [self.write(self._narrow(beside, part)) for part in parts])
        return among is not False and {**notes, **among}

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
        if "$ref" in rest and (len(rest) > 1 + ("nullable" in rest) or parts):
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
            self._expanded[reference] = self._expand(self._site.run.resolve(reference))
        return self._expanded[reference]

    def _refer(self, reference: str) -> str:
        if reference not in self._names:
            name = re.sub(r"[^A-Za-z0-9_.-]", "-", reference.rpartition("/")[2].lstrip("#"))[:60] or "root"
            while name in self._definitions:
                name += f"_{len(self._definitions)}"
            self._names[reference], self._definitions[name] = name, {}
            self._unwritten.append((name, reference))
        return f"#/$defs/{self._names[reference]}"

    def _write_values(self, flat: dict[str, Any]) -> Any:
        """Write the values that hold to everything else."""
        values = [flat.pop("const")] if "const" in flat else flat.pop("enum")
        notes, rest = _split(flat)
        values = [value for value in values if self._site.find(value, rest) is None]
        return bool(values) and {**notes, **({"type": rest["type"]} if "type" in rest else {}), "enum": values}

    def _write_kind(self, flat: dict[str, Any], kind: str) -> Any:
        write = self._KINDS.get(kind)
        return write(self, {**flat, "type": kind}) if write else {**flat, "type": kind}

    def _write_object(self, flat: dict[str, Any]) -> Any:
        properties, patterns = dict(flat.get("properties", {})), flat.pop("patternProperties", {})
        more = flat.get("additionalProperties", flat.pop("unevaluatedProperties", None))
        required, names = flat.get("required", []), flat.pop("propertyNames", None)
        named = {} if names is None else self.write(_both({"type": "string"}, names))
        listed = [] if named is False or flat.get("maxProperties") == 0 else named.get("enum")
        if listed is None and more is None and "properties" not in flat and required:
            more = True
        for name in required if listed is None else listed:
            found = [part for pattern, part in patterns.items() if self._site.matches(pattern, name)]
            properties.setdefault(name, {"allOf": found} if found else True if more is None else more)
        written = {name: part for name, one in properties.items() if (part := self.write(one)) is not False}
        if listed is not None:
            written, more = {name: written[name] for name in listed if name in written}, False
        elif patterns:
            more = {"anyOf": [*patterns.values(), *([more] if isinstance(more, dict) else [])]}
        if set(required) - set(written):
            return False
        if written or "properties" in flat or listed is not None:
            flat["properties"] = written
        rest = None if more is None else self.write(more)
        return flat if rest is None else {**flat, "additionalProperties": True if rest == {} else rest}

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
        """Write bounds by the multiples between them: of the step that is asked for, of 1, or of a decimal fraction.

        llama-server holds whole numbers alone to bounds, and of a lower one alone takes 10 to be above 100.
        """
        step, low = _exact(flat, "multipleOf"), _exact(flat, "minimum", "exclusiveMinimum")
        high, is_whole = _exact(flat, "maximum", "exclusiveMaximum"), flat["type"] == "integer"
        if step is not None and step.denominator == 1:
            flat["type"], is_whole = "integer", True
        if (low is None and high is None) or (not is_whole and (low is None or high is None)):
            return flat
        low = -_MOST_WHOLE if low is None else max(low, -_MOST_WHOLE) if is_whole else low
        high = _MOST_WHOLE if high is None else min(high, _MOST_WHOLE) if is_whole else high
        unit = Fraction(step.numerator if step is not None else 1) if is_whole else step
        if unit is None:
            if low < high and (self._is_shown or high - low > _MOST_RANGE):
                return flat
            unit = Fraction(1) if low < high else abs(low) or Fraction(1)
            while low < high and (high - low) / unit * 10 < _MOST_LISTED:
                unit /= 10
        first, last = ceil(low / unit), floor(high / unit)
        first += "exclusiveMinimum" in flat and first * unit == low
        last -= "exclusiveMaximum" in flat and last * unit == high
        if first > last:
            return False
        if last - first < _MOST_LISTED and not (is_whole and unit == 1):
            every = (at * unit for at in range(first, last + 1))
            listed = [int(one) if one.denominator == 1 else float(one) for one in every]
            return {**_split(flat)[0], "type": flat["type"], "enum": listed}
        rest = {name: value for name, value in flat.items() if not name.startswith("exclusive")}
        return {**rest, "minimum": int(first * unit), "maximum": int(last * unit)} if is_whole else flat

    _KINDS: ClassVar[dict[str, Callable[[_Writer, dict[str, Any]], Any]]] = {
        "object": _write_object, "array": _write_array, "string": _write_string, "number": _write_number,
        "integer": _write_number,
    }  # fmt: skip


def _exact(schema: dict[str, Any], *names: str) -> Any:
    """Return the first of the numbers that are there, as the fraction that is written; None if there is none."""
    return next((Fraction(repr(schema[name])) for name in names if name in schema), None)


def _among(keyword: str, parts: list[Any]) -> Any:
    kept = [part for part in parts if part is not False]
    return False if not kept else kept[0] if len(kept) == 1 else {keyword: kept}


def _split(schema: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a schema says to a reader, and what it says of values."""
    notes = {name: value for name, value in schema.items() if name not in _SAID and name not in _NOT_SENT}
    return notes, _tighten({name: value for name, value in schema.items() if name in _SAID})


def _tighten(schema: dict[str, Any]) -> dict[str, Any]:
    """Write the bounds of draft 4 as numbers, and of two lower or upper bounds the one that matters."""
    found = dict(schema)
    for bound, strict, is_tighter in (("minimum", "exclusiveMinimum", gt), ("maximum", "exclusiveMaximum", lt)):
        if isinstance(found.get(strict), bool):
            if found.pop(strict) and bound in found:
                found[strict] = found.pop(bound)
        elif bound in found and strict in found:
            found.pop(strict if is_tighter(found[bound], found[strict]) else bound)
    return found


def _merge(one: dict[str, Any], other: dict[str, Any]) -> Any:
    """Return a flat schema that holds what both hold, as far as it can be said; False if nothing can."""
    merged = {**other, **one}
    for keyword in (name for name in one if name in other and name in _MERGES and one[name] != other[name]):
        merged[keyword] = _MERGES[keyword](one[keyword], other[keyword])
        if merged[keyword] == []:
            return False
    properties: dict[str, Any] = {}
    # One that only one of them names is an additional one for the other.
    for name in [*one.get("properties", {}), *other.get("properties", {})]:
        parts = [part.get("properties", {}).get(name, part.get("additionalProperties", True)) for part in (one, other)]
        kept = [part for part in parts if part is not True]
        properties[name] = kept[0] if len(kept) == 1 else {"allOf": kept} if kept else True
    return {**merged, "properties": properties} if properties else merged


def _both(one: Any, other: Any) -> dict[str, Any]:
    return {"allOf": [one, other]}


def _both_of_each(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {**one, **other, **{name: _both(one[name], other[name]) for name in one if name in other}}


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
    "enum": lambda one, other: [value for value in one if freeze(value) in set(map(freeze, other))],
    "const": lambda *_: [],
    "required": lambda one, other: list(dict.fromkeys([*one, *other])),
    **dict.fromkeys(("items", "additionalProperties", "propertyNames"), _both),
    "patternProperties": _both_of_each,
    "prefixItems": lambda one, other: [_both(*pair) for pair in zip_longest(one, other, fillvalue=True)],
    **dict.fromkeys(("anyOf", "oneOf"), _product),
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"), max),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), min),
}
