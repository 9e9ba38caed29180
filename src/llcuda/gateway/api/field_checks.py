"""The kinds of fields that a request can have: each with the check of a value, and the schema of what it takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from reprlib import repr as show
from typing import TYPE_CHECKING, Any

from llcuda.fleet.refusals import RefusedError
from llcuda.schema.validate import find_mismatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from llcuda.options import RequestOption

    Schema = dict[str, Any]

__all__ = [
    "FLAG", "IGNORED", "TOKEN", "TOKENS", "Field", "either", "invalid", "items", "list_of", "mapping", "matching",
    "number", "one_of", "only", "text", "texts", "whole_number",
]  # fmt: skip

MAX_INT = 2**31 - 1
"""llama-server keeps counts in 32 bits, and a larger one would wrap around."""
MAX_FLOAT = 3.4e38
"""llama-server keeps these numbers in 32 bits, and a larger one would become infinite."""
MAX_SHOWN = 80
"""Characters of a refused value that the refusal repeats."""


@dataclass(frozen=True, slots=True)
class Field:
    """What a field takes: as a check, in words, and as a JSON schema."""

    takes: Callable[[str, Any], bool]
    """Tells of a name and a value whether the value is taken. Raises RefusedError to say what is wrong inside of it."""
    wanted: str
    schema: Schema
    is_required: bool = False

    def check(self, name: str, value: Any) -> None:
        """Raise RefusedError for a value that is not taken."""
        if not self.takes(name, value):
            raise invalid(name, value, self.wanted)

    @property
    def required(self) -> Field:
        """The same, as a field that must be there."""
        return replace(self, is_required=True)


def invalid(name: str, value: Any, wanted: str) -> RefusedError:
    """Return the refusal of a value, which says what would have been taken."""
    shown = repr(value[:MAX_SHOWN]) if isinstance(value, str) else show(value)
    shown = shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}..."
    return RefusedError(400, f"{name} must be {wanted}, and is {shown}", code="invalid_value", param=name)


TOKEN: Schema = {"type": "integer", "minimum": 0, "maximum": MAX_INT}
FLAG = Field(lambda _, value: value is True or value is False, "true or false", {"type": "boolean"})
IGNORED = Field(lambda *_: True, "anything", {"description": "Taken, and without an effect."})
TOKENS = Field(
    lambda _, value: type(value) is list and all(type(item) is int and 0 <= item <= MAX_INT for item in value),
    "a list of the ids of tokens",
    {"type": "array", "items": TOKEN},
)


def whole_number(low: int, high: int = MAX_INT) -> Field:
    """Take whole numbers, both ends included, be they written as 2.0."""
    return Field(
        lambda _, value: (type(value) is int or (type(value) is float and value.is_integer())) and low <= value <= high,
        f"a whole number from {low} to {high}",
        {"type": "integer", "minimum": low, "maximum": high},
    )


def number(option: RequestOption) -> Field:
    """Take the numbers of an option."""
    low = -MAX_FLOAT if option.low is None else option.low
    high = MAX_FLOAT if option.high is None else option.high
    above = -float("inf") if option.above is None else option.above
    bounds = {"minimum": low, "maximum": high, "exclusiveMinimum": option.above}
    return Field(
        lambda _, value: type(value) in {float, int} and low <= value <= high and value > above,
        f"a number {_show_range(option)}".rstrip(),
        {"type": "number", **{name: bound for name, bound in bounds.items() if bound is not None}},
    )


def _show_range(option: RequestOption) -> str:
    if option.low is not None:
        return f"from {option.low}" if option.high is None else f"from {option.low} to {option.high}"
    bounds = (("above", option.above), ("at most", option.high))
    return ", ".join(f"{words} {bound}" for words, bound in bounds if bound is not None)


def text(most: int) -> Field:
    """Take a string of at most so many characters."""
    return Field(
        lambda _, value: type(value) is str and len(value) <= most,
        f"a string of at most {most} characters",
        {"type": "string", "maxLength": most},
    )


def texts(most: int, *, most_characters: int) -> Field:
    """Take a string, or a list of at most so many."""

    def takes(_name: str, value: Any) -> bool:
        strings = [value] if type(value) is str else value
        if type(strings) is not list or len(strings) > most:
            return False
        for string in strings:  # noqa: SIM110 - all() takes 0.3 us more, and `stop` is in many requests
            if type(string) is not str or len(string) > most_characters:
                return False
        return True

    string = {"type": "string", "maxLength": most_characters}
    wanted = f"a string or a list of at most {most}, each of at most {most_characters} characters"
    return Field(takes, wanted, {"anyOf": [string, {"type": "array", "maxItems": most, "items": string}]})


def one_of(*allowed: Any) -> Field:
    """Take one of these values."""
    wanted = " or ".join(map(_write, allowed))
    return Field(lambda _, value: _is_among(value, allowed), wanted, {"enum": list(allowed)})


def only(value: Any, *, why: str) -> Field:
    """Take the one value that changes nothing: llama-server would ignore any other, and say nothing."""
    wanted = f"{'left out' if value is None else _write(value)}: {why}"
    return Field(lambda _, given: _is_among(given, (value,)), wanted, {"const": value, "description": why})


def _write(value: Any) -> str:
    return str(value).lower() if type(value) is bool else repr(value)


def _is_among(value: Any, allowed: tuple[Any, ...]) -> bool:
    """Tell whether a value is one of these: 1.0 is 1, and not true."""
    return any(value == one and (type(value) is bool) == (type(one) is bool) for one in allowed)


def mapping(most: int) -> Field:
    """Take an object of at most so many fields."""
    return Field(
        lambda _, value: type(value) is dict and len(value) <= most,
        f"an object of at most {most} fields",
        {"type": "object", "maxProperties": most},
    )


def items(most: int) -> Field:
    """Take a list of one to so many objects."""
    return Field(
        lambda _, value: type(value) is list and 0 < len(value) <= most and all(type(item) is dict for item in value),
        f"a list of 1 to {most} objects",
        {"type": "array", "minItems": 1, "maxItems": most, "items": {"type": "object"}},
    )


def list_of(most: int, item: Field) -> Field:
    """Take a list of one to so many items of another kind."""

    def takes(name: str, value: Any) -> bool:
        if type(value) is not list or not 0 < len(value) <= most:
            return False
        for place, one in enumerate(value):
            if not item.takes(name, one):
                raise invalid(f"{name}[{place}]", one, item.wanted)
        return True

    schema = {"type": "array", "minItems": 1, "maxItems": most, "items": item.schema}
    return Field(takes, f"a list of 1 to {most} items", schema)


def either(*fields: Field, wanted: str) -> Field:
    """Take what one of the other kinds takes."""
    schema = {"anyOf": [field.schema for field in fields]}
    return Field(lambda name, value: any(field.takes(name, value) for field in fields), wanted, schema)


def matching(schema: Schema, *, wanted: str) -> Field:
    """Take what a schema describes; a few µs slower than a check that is written out, so for rare fields only."""
    return Field(lambda _, value: find_mismatch(value, schema) is None, wanted, schema)
