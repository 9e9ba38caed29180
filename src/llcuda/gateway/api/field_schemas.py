"""The JSON schema that a request wants its answer to hold to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llcuda.errors import UsageError
from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.api.field_checks import invalid
from llcuda.gateway.api.field_costs import SchemaCosts
from llcuda.gateway.api.patterns import MAX_STEPS, Steps, StepsSpentError, is_quick
from llcuda.schema.check import check_schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from llcuda.gateway.http.endpoints import Endpoint

__all__ = ["asked_schema", "response_format", "response_text", "schema"]

MAX_SCHEMA_CHARACTERS = 64 << 10
"""llama-server makes a grammar of it before it answers anyone else, and every answer is held against it."""
MAX_PATTERNS = 64
"""Patterns in a schema. Each is looked into before it is tried on a text."""

_FORMATS = ("text", "json_object", "json_schema")
_ANY_OBJECT: dict[str, Any] = {"type": "object"}


def schema(name: str, value: Any) -> None:
    """Take a JSON schema that answers can be held against."""
    if type(value) is not dict:
        raise RefusedError(400, f"{name} must be an object", code="invalid_schema", param=name)
    try:
        _check_size(value)
        _check_patterns(value)
        check_schema(value)
        SchemaCosts().add(value)
    except UsageError as error:
        reason = ". ".join(filter(None, (f"{name}: {error.message}", error.hint)))
        raise RefusedError(400, reason, code="invalid_schema", param=name) from None
    except RecursionError:
        raise RefusedError(400, f"{name} is nested too deeply", code="invalid_schema", param=name) from None


def response_format(name: str, value: Any) -> None:
    """Take the formats of OpenAI's chat: ``text``, ``json_object`` and ``json_schema``."""
    if type(value) is not dict or value.get("type") not in _FORMATS:
        raise invalid(name, value, f"an object whose type is one of {', '.join(_FORMATS)}")
    if value["type"] == "json_schema":
        wrapper = value.get("json_schema")
        schema(f"{name}.json_schema.schema", wrapper.get("schema") if type(wrapper) is dict else None)
    elif value["type"] == "json_object" and value.get("schema") is not None:
        schema(f"{name}.schema", value["schema"])


def response_text(name: str, value: Any) -> None:
    """Take ``text`` of the Responses API, whose ``format`` is a schema without OpenAI's wrapper around it."""
    if type(value) is not dict:
        raise invalid(name, value, "an object")
    wanted = value.get("format")
    if wanted is None:
        return
    if type(wanted) is not dict or wanted.get("type") not in _FORMATS:
        raise invalid(f"{name}.format", wanted, f"an object whose type is one of {', '.join(_FORMATS)}")
    if wanted["type"] == "json_schema":
        schema(f"{name}.format.schema", wanted.get("schema"))


def asked_schema(endpoint: Endpoint, fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the schema that the text of an answer has to hold to, None where anything may come."""
    if endpoint in {"completion", "completions", "infill"}:
        return _or_any_object(fields.get("json_schema"))
    if endpoint == "responses":
        wanted = (fields.get("text") or {}).get("format") or {}
        return _read_format({"type": wanted.get("type"), "json_schema": wanted}, None)
    if endpoint == "chat":
        return _read_format(fields.get("response_format") or {}, fields.get("json_schema"))
    return None


def _read_format(wanted: Mapping[str, Any], beside: dict[str, Any] | None) -> dict[str, Any] | None:
    """Choose between ``response_format`` and the ``json_schema`` beside it, as llama-server does."""
    kind = wanted.get("type")
    if kind == "json_schema":
        return _or_any_object(wanted["json_schema"].get("schema"))
    if kind == "json_object" and ("schema" in wanted or not beside):
        return wanted.get("schema") or _ANY_OBJECT
    return _or_any_object(beside)


def _or_any_object(document: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the schema, in llama-server's sense of an empty one."""
    return document if document is None else document or _ANY_OBJECT


def _check_size(document: dict[str, Any]) -> None:
    size = sum(map(_measure, _find_values(document)))
    if size > MAX_SCHEMA_CHARACTERS:
        raise UsageError(f"the schema has {size} characters, and may have {MAX_SCHEMA_CHARACTERS}")


def _measure(value: Any) -> int:
    """Return how many characters a value takes without what is inside of it, at least."""
    if type(value) is dict:
        return 2 + sum(4 + len(name) for name in value)
    return 2 + len(value) if type(value) in {list, str} else len(str(value))


def _find_values(value: Any) -> Iterator[Any]:
    """Return a value and everything inside of it."""
    yield value
    for item in value.values() if type(value) is dict else value if type(value) is list else ():
        yield from _find_values(item)


def _check_patterns(document: dict[str, Any]) -> None:
    patterns = set(_find_patterns(document))
    if len(patterns) > MAX_PATTERNS:
        raise UsageError(f"the schema has {len(patterns)} patterns, and may have {MAX_PATTERNS}")
    steps = Steps()
    try:
        slow = next((pattern for pattern in patterns if not is_quick(pattern, steps)), None)
    except StepsSpentError:
        reason = f"the schema's patterns take more than {MAX_STEPS} steps to look into"
        raise UsageError(reason, hint="Write fewer or shorter ones, or smaller numbers in their braces.") from None
    if slow is not None:
        raise UsageError(
            f"the schema has a pattern that is none, or could take for ever to check: {slow:.100}",
            hint="A pattern must begin with ^ and end with $, and each next character must settle how it goes on.",
        )


def _find_patterns(document: Any) -> Iterator[str]:
    """Return every pattern, wherever it stands; a property of that name has a schema, not a string."""
    for value in _find_values(document):
        if type(value) is dict:
            if type(value.get("pattern")) is str:
                yield value["pattern"]
            if type(value.get("patternProperties")) is dict:
                yield from value["patternProperties"]
