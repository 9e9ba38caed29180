"""What an answer must look like: a JSON schema or a Python type, sent to the server and checked on our side.

llama-server turns the schema into a grammar and generates within it. It is sent the schema in the words that it
understands. If it has none, it says nothing and generates freely; so every answer is validated here, and one that does
not hold to the schema is an error, never a value.
"""

from __future__ import annotations

from dataclasses import dataclass
from json import JSONDecoder
from typing import TYPE_CHECKING, Any

from llcuda.errors import SchemaMismatchError, UsageError
from llcuda.schema.check import check_schema
from llcuda.schema.constraint import constrain
from llcuda.schema.validate import find_mismatch

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Schema", "compile_schema"]


def _take_number(digits: str) -> float:
    number = float(digits)
    if number - number != 0:
        raise ValueError(f"{digits[:40]} is no number of JSON")
    return number


# Python reads NaN and Infinity as numbers, and 1e999 as one; JSON has no such thing.
_decode = JSONDecoder(parse_constant=_take_number, parse_float=_take_number).decode


def _keep(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True)
class Schema:
    """A schema that was checked: answers are held against ``document``, and ``build`` makes the Python value of one."""

    document: dict[str, Any]
    build: Callable[[Any], Any] = _keep

    def constrain(self) -> dict[str, Any]:
        """Return the schema that llama-server is sent. Raises UsageError if no value holds to it."""
        return constrain(self.document)

    def parse(self, text: str) -> Any:
        """Return the value that a text holds.

        Raises SchemaMismatchError if it is not JSON, does not hold to the schema, or the type refuses it: what a
        dataclass's ``__post_init__`` raises counts.
        """
        try:
            value = _decode(text)
        except (ValueError, RecursionError) as error:
            raise SchemaMismatchError(f"it is not JSON ({error})", text=text) from None
        reason = find_mismatch(value, self.document)
        if reason is not None:
            raise SchemaMismatchError(reason, text=text)
        try:
            return self.build(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise SchemaMismatchError(str(error), text=text) from error


def compile_schema(schema: object) -> Schema:
    """Return the schema of a JSON schema (a mapping) or of a Python type.

    Types: ``bool``, ``int``, ``float``, ``str``, ``None``, ``Any``; ``list``, ``set``, ``tuple`` and ``dict[str, …]``
    of them; ``Literal``, ``Enum``, ``Optional`` and unions; dataclasses, ``TypedDict`` and pydantic models, nested and
    recursive. Raises UsageError for any other type, and for a keyword that could not be checked in an answer.
    """
    if isinstance(schema, dict):
        compiled = Schema(schema)
    else:
        from llcuda.schema.types import read_type  # noqa: PLC0415 - typing and enum, only if a type is given

        compiled = Schema(*read_type(schema))
    try:
        check_schema(compiled.document)
    except RecursionError:
        raise UsageError("the schema is nested too deeply") from None
    return compiled
