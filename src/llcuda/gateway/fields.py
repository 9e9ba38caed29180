"""Read a request's body strictly, and take only the fields that are known, within their bounds."""

from __future__ import annotations

import re
from json import JSONDecoder, JSONEncoder
from typing import TYPE_CHECKING, Any

from llcuda.gateway.field_refusals import REFUSED
from llcuda.gateway.field_tables import FIELDS, REQUIRED
from llcuda.gateway.refusals import RefusedError
from llcuda.options import suggest_names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llcuda.gateway.endpoints import Endpoint

__all__ = ["check_fields", "parse_body"]

MAX_BODY_DEPTH = 64
"""Levels of objects and lists. llama-server reads them with a recursion of its own, and a schema has at most 60."""
MAX_NAME_SHOWN = 100
"""Characters of an unknown field's name that the refusal repeats."""

_MAY_BE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]").search


def check_fields(endpoint: Endpoint, body: Mapping[str, Any]) -> None:
    """Check that the endpoint knows every field, and that each is within its bounds; null is a field left out.

    Raises RefusedError (400) with the code ``unknown_field``, ``invalid_value`` or ``invalid_schema``.
    """
    checks = FIELDS[endpoint]
    for name, value in body.items():
        check = checks.get(name)
        if check is None:
            raise _refuse_name(name, tuple(checks))
        if value is not None:
            check(name, value)
    for name in REQUIRED[endpoint]:
        if body.get(name) is None:
            raise RefusedError(400, f"{name} is missing", code="invalid_value", param=name)
    if "json_schema" in body:
        _check_alone(body)


def parse_body(data: bytes) -> dict[str, Any]:
    """Return the fields of a body: one JSON object in UTF-8, with no name twice, and nothing that is not JSON.

    Whatever two readers could understand in two ways is refused, because llama-server reads the bytes again. Takes
    under 10 µs for a chat request of 1 KB. Raises RefusedError (400) with the code ``invalid_json``.
    """
    try:
        fields = _decode(data.decode())
    except RecursionError:
        raise _refuse_json("it is nested too deeply") from None
    except ValueError as error:
        raise _refuse_json(str(error)) from None
    if type(fields) is not dict:
        raise _refuse_json("it is not an object")
    if data.count(b"{") + data.count(b"[") > MAX_BODY_DEPTH:
        _check_depth(fields)
    if b"\\u" in data and _MAY_BE_SURROGATE(data):
        _check_surrogates(fields)
    return fields


def _check_alone(body: Mapping[str, Any]) -> None:
    """Refuse a schema beside a grammar, be it null: llama-server would leave the schema out of account."""
    if "grammar" in body and body["json_schema"] is not None:
        raise RefusedError(400, "json_schema and grammar exclude each other", code="invalid_value", param="json_schema")


def _refuse_name(name: str, known: tuple[str, ...]) -> RefusedError:
    shown = name[:MAX_NAME_SHOWN]
    if name in REFUSED:
        reason = f"the field {name} is not taken: {REFUSED[name]}"
    else:
        near = suggest_names(shown, known)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        reason = f"there is no field {shown!r} here{hint}"
    return RefusedError(400, reason, code="unknown_field", param=shown)


def _refuse_json(reason: str) -> RefusedError:
    return RefusedError(400, f"the body cannot be read as JSON: {reason}", code="invalid_json")


def _take_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name is there twice in one object")
    return fields


def _take_float(digits: str) -> float:
    number = float(digits)
    if number - number != 0:
        raise ValueError(f"{digits[:MAX_NAME_SHOWN]} is too large")
    return number


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


_decode = JSONDecoder(object_pairs_hook=_take_object, parse_float=_take_float, parse_constant=_refuse_constant).decode
_encode = JSONEncoder(ensure_ascii=False).encode


def _check_depth(fields: dict[str, Any]) -> None:
    level: list[Any] = [fields]
    for _ in range(MAX_BODY_DEPTH):
        level = [
            item
            for container in level
            for item in (container.values() if type(container) is dict else container)
            if type(item) is dict or type(item) is list
        ]
        if not level:
            return
    raise _refuse_json(f"it is nested more than {MAX_BODY_DEPTH} levels deep")


def _check_surrogates(fields: dict[str, Any]) -> None:
    """Refuse half of a character, which has no bytes in UTF-8."""
    try:
        _encode(fields).encode()
    except UnicodeEncodeError:
        raise _refuse_json("it has half of a surrogate pair") from None
