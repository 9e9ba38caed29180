"""The kinds of fields that a request can have: functions that refuse a value, each with the schema of what it takes."""

from __future__ import annotations

from reprlib import repr as show
from typing import TYPE_CHECKING, Any

from llcuda.fleet.refusals import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from llcuda.options import Option

    Check = Callable[[str, Any], None]
    Schema = dict[str, Any]

__all__ = [
    "describe", "described", "either", "flag", "ignored", "invalid", "items", "list_of", "mapping", "number",
    "one_of", "only", "text", "texts", "tokens", "whole_number",
]  # fmt: skip

MAX_INT = 2**31 - 1
"""llama-server keeps counts in 32 bits, and a larger one would wrap around."""
MAX_FLOAT = 3.4e38
"""llama-server keeps these numbers in 32 bits, and a larger one would become infinite."""
MAX_SHOWN = 80
"""Characters of a refused value that the refusal repeats."""

_schemas: dict[Check, Callable[[], Schema]] = {}


def described(check: Check, schema: Callable[[], Schema]) -> Check:
    """Return the check, and keep what its values look like; the schema is made when it is asked for."""
    _schemas[check] = schema
    return check


def describe(check: Check) -> Schema:
    """Return the JSON schema of what a check takes; raises KeyError for one that was never described."""
    return _schemas[check]()


def invalid(name: str, value: Any, wanted: str) -> RefusedError:
    """Return the refusal of a value, which says what would have been taken."""
    shown = repr(value[:MAX_SHOWN]) if isinstance(value, str) else show(value)
    shown = shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}..."
    return RefusedError(400, f"{name} must be {wanted}, and is {shown}", code="invalid_value", param=name)


def whole_number(option: Option, *, high: int | None = None) -> Check:
    """Take the whole numbers of an option, at most ``high`` where that is given."""
    least = -MAX_INT if option.low is None else option.low
    most = high or option.high or MAX_INT
    wanted = f"a whole number from {least} to {most}"

    def check(name: str, value: Any) -> None:
        if type(value) is not int or not least <= value <= most:
            raise invalid(name, value, wanted)

    return described(check, lambda: {"type": "integer", "minimum": least, "maximum": most})


def number(option: Option) -> Check:
    """Take the numbers of an option."""
    least = -MAX_FLOAT if option.low is None else option.low
    most = MAX_FLOAT if option.high is None else option.high
    above = -float("inf") if option.above is None else option.above
    wanted = f"a number {_show_range(option)}".rstrip()

    def check(name: str, value: Any) -> None:
        if type(value) not in {float, int} or not least <= value <= most or value <= above:
            raise invalid(name, value, wanted)

    bounds = {"minimum": least, "maximum": most, "exclusiveMinimum": option.above}
    given = {name: bound for name, bound in bounds.items() if bound is not None}
    return described(check, lambda: {"type": "number", **given})


def _show_range(option: Option) -> str:
    low = f"from {option.low}" if option.above is None else f"above {option.above}"
    if option.high is not None:
        return f"{low} to {option.high}" if option.above is None else f"{low}, at most {option.high}"
    return low if option.low is not None or option.above is not None else ""


def flag(name: str, value: Any) -> None:
    """Take true and false."""
    if value is not True and value is not False:
        raise invalid(name, value, "true or false")


def text(most: int) -> Check:
    """Take a string of at most so many characters."""

    def check(name: str, value: Any) -> None:
        if type(value) is not str or len(value) > most:
            raise invalid(name, value, f"a string of at most {most} characters")

    return described(check, lambda: {"type": "string", "maxLength": most})


def texts(most: int, *, most_characters: int) -> Check:
    """Take a string, or a list of at most so many."""
    wanted = f"a string or a list of at most {most}, each of 1 to {most_characters} characters"

    def check(name: str, value: Any) -> None:
        strings = [value] if type(value) is str else value
        if type(strings) is not list or len(strings) > most:
            raise invalid(name, value, wanted)
        for string in strings:
            if type(string) is not str or not 0 < len(string) <= most_characters:
                raise invalid(name, value, wanted)

    string = {"type": "string", "minLength": 1, "maxLength": most_characters}
    return described(check, lambda: {"anyOf": [string, {"type": "array", "maxItems": most, "items": string}]})


def one_of(*allowed: Any) -> Check:
    """Take one of these values."""
    wanted = " or ".join(map(repr, allowed))

    def check(name: str, value: Any) -> None:
        if not any(type(value) is type(one) and value == one for one in allowed):
            raise invalid(name, value, wanted)

    return described(check, lambda: {"enum": list(allowed)})


def only(value: Any, *, why: str) -> Check:
    """Take the one value that changes nothing: llama-server would leave any other out of account, and say nothing."""

    def check(name: str, given: Any) -> None:
        if type(given) is not type(value) or given != value:
            raise invalid(name, given, f"{'left out' if value is None else repr(value)}: {why}")

    return described(check, lambda: {"const": value, "description": why})


def ignored(_name: str, _value: Any) -> None:
    """Take anything: clients send it, and it changes nothing about the answer."""


def mapping(most: int) -> Check:
    """Take an object of at most so many fields."""

    def check(name: str, value: Any) -> None:
        if type(value) is not dict or len(value) > most:
            raise invalid(name, value, f"an object of at most {most} fields")

    return described(check, lambda: {"type": "object", "maxProperties": most})


def items(most: int) -> Check:
    """Take a list of one to so many objects."""

    def check(name: str, value: Any) -> None:
        if type(value) is not list or not 0 < len(value) <= most or not all(type(item) is dict for item in value):
            raise invalid(name, value, f"a list of 1 to {most} objects")

    return described(
        check, lambda: {"type": "array", "minItems": 1, "maxItems": most, "items": {"type": "object"}}
    )


def list_of(most: int, check_item: Check) -> Check:
    """Take a list of one to so many items, each of which the other check takes."""

    def check(name: str, value: Any) -> None:
        if type(value) is not list or not 0 < len(value) <= most:
            raise invalid(name, value, f"a list of 1 to {most} items")
        for item in value:
            check_item(name, item)

    return described(
        check, lambda: {"type": "array", "minItems": 1, "maxItems": most, "items": describe(check_item)}
    )


def tokens(name: str, value: Any) -> None:
    """Take a list of the ids of tokens."""
    if type(value) is not list or not all(type(item) is int and 0 <= item <= MAX_INT for item in value):
        raise invalid(name, value, "a list of the ids of tokens")


def either(*checks: Check, wanted: str) -> Check:
    """Take what one of the checks takes."""

    def check(name: str, value: Any) -> None:
        for one in checks:
            try:
                one(name, value)
            except RefusedError:
                continue
            return
        raise invalid(name, value, wanted)

    return described(check, lambda: {"anyOf": [describe(one) for one in checks]})
