"""Read a request's body strictly, and take only the fields that are known, within their bounds."""

from __future__ import annotations

import difflib
import re
from functools import lru_cache
from json import JSONDecodeError, JSONDecoder, JSONEncoder
from typing import TYPE_CHECKING, Any

from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.api.field_checks import invalid
from llcuda.gateway.api.field_tables import ELSEWHERE, FIELDS, REFUSED
from llcuda.options import suggest_names

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "MAX_QUICK_BYTES", "MOST_LAYERS", "OFFLOADS", "check_fields", "is_quick_to_read", "leave_out_unknown", "parse_body",
    "read_known",
]  # fmt: skip

OFFLOADS = ("auto", "full", "mixed", "cpu")
"""Where a model is to run."""
MOST_LAYERS = 4096
"""Layers on the GPU that can be asked for. Models have up to 200."""
MAX_OWN_BYTES = 4096
"""Of the body of a request to one of the gateway's own addresses."""

MAX_QUICK_BYTES = 16 << 10
"""Of a body that is read on the event loop: the slowest such takes 3 ms. A thread takes 0.1 ms more."""
MAX_BODY_DEPTH = 64
"""Levels of objects and lists. llama-server reads them with a recursion of its own, and a schema has at most 60."""
MAX_NAMES = 1024
"""Names in one object. llama-server looks each up among those before it: 50,000 took 7.7 s of CPU, 1024 take 3 ms."""
MAX_ALL_NAMES = 1 << 16
"""Names in a body. In objects of 1024 they take llama-server 0.2 s; 4096 messages with parts have half as many."""
MAX_CONTAINERS = 1 << 16
"""Objects and lists in a body. 4096 messages of parts have a third of them; the collector goes through them all."""
MAX_VALUES = 1 << 19
"""Values in a body. OpenAI's API takes 300,000 tokens in one, and Python reads so many within 0.2 s."""
_SHORTEST_NAME = 5  # with its quotes, colon, value and comma
MAX_IGNORED = 16
"""Unknown fields of a body that are left out. Each is held against all the known names."""
MAX_NAME_SHOWN = 100
"""Characters of an unknown field's name that the refusal repeats."""

_REQUIRED = {
    endpoint: [name for name, field in fields.items() if field.is_required] for endpoint, fields in FIELDS.items()
}
_MAY_BE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]").search


def leave_out_unknown(
    endpoint: str, body: dict[str, Any], *, is_strict: bool = False
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the fields of a body that are known, and the names of the others, which change nothing.

    So a client may be newer than this gateway. Raises RefusedError (400, ``unknown_field``) for a name that is like a
    known one, for what is refused everywhere, for too many, and with ``is_strict`` for any.
    """
    known = FIELDS[endpoint]
    unknown = tuple(name for name in body if name not in known)
    if not unknown:
        return body, ()
    strange = unknown if is_strict else tuple(name for name in unknown if name not in ELSEWHERE)
    for name in strange:
        is_refused = is_strict or (name in REFUSED and body[name] is not None) or len(strange) > MAX_IGNORED
        if is_refused or _find_meant(endpoint, name[:MAX_NAME_SHOWN]):
            raise _refuse_name(endpoint, name)
    return {name: value for name, value in body.items() if name in known}, unknown


@lru_cache(1024)
def _find_meant(endpoint: str, name: str) -> tuple[str, ...]:
    """Return the known names that differ by a slip of the fingers: two letters of a long one, one of a short one."""
    alike = max(0.75, 1 - 2 / max(1, len(name)))
    return tuple(difflib.get_close_matches(name, FIELDS[endpoint], n=3, cutoff=alike))


def check_fields(endpoint: str, body: Mapping[str, Any]) -> None:
    """Check that the endpoint knows every field, and that each is within its bounds; null is a field left out.

    Raises RefusedError (400) with the code ``unknown_field``, ``invalid_value`` or ``invalid_schema``.
    """
    fields = FIELDS[endpoint]
    for name, value in body.items():
        field = fields.get(name)
        if field is None:
            raise _refuse_name(endpoint, name)
        if value is not None and not field.takes(name, value):
            raise invalid(name, value, field.wanted)
    for name in _REQUIRED[endpoint]:
        if body.get(name) is None:
            raise RefusedError(400, f"{name} is missing", code="invalid_value", param=name)
    if "json_schema" in body:
        _check_alone(body)


def is_quick_to_read(data: bytes) -> bool:
    """Tell whether a body is parsed and checked within 5 ms, whatever is in it; a thread should read any other."""
    # Of schemas and grammars, whatever the field is called that they stand in, and of names that are written otherwise.
    slow = b"schema" in data or b"grammar" in data or b"format" in data or b"tools" in data or b"\\u" in data
    return len(data) <= MAX_QUICK_BYTES and not slow


def read_known(body: bytes, known: tuple[str, ...]) -> dict[str, Any]:
    """Return the fields of a body.

    Raises RefusedError (400) for a field that is not ``known``, and for more than 4096 bytes.
    """
    if len(body) > MAX_OWN_BYTES:
        raise RefusedError(400, f"the body has {len(body)} bytes, and may have {MAX_OWN_BYTES}", code="body_too_large")
    fields = parse_body(body)
    for name in fields:
        if name not in known:
            shown = name[:MAX_NAME_SHOWN]
            near = suggest_names(shown, known)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there is {', '.join(known)}"
            raise RefusedError(400, f"there is no field {shown!r} here; {hint}", code="unknown_field", param=shown)
    return fields


def parse_body(data: bytes) -> dict[str, Any]:
    """Return the fields of a body: one JSON object in UTF-8, with no name twice, and nothing that is not JSON.

    Whatever two readers could understand in two ways is refused, because llama-server reads the bytes again. Takes
    under 10 µs for a chat request of 1 KB. Raises RefusedError (400) with the code ``invalid_json``.
    """
    if len(data) > MAX_VALUES:
        _check_density(data)
    try:
        fields = _decode(data.decode())
    except RecursionError:
        raise _refuse_json("it is nested too deeply") from None
    except (JSONDecodeError, UnicodeDecodeError, _NotJsonError) as error:
        raise _refuse_json(str(error)) from None
    except ValueError:
        raise _refuse_json("a number has too many digits") from None
    if type(fields) is not dict:
        raise _refuse_json("it is not an object")
    if len(data) > _SHORTEST_NAME * MAX_NAMES or data.count(b"{") + data.count(b"[") > MAX_BODY_DEPTH:
        _check_shape(fields)
    if b"\\u" in data and _MAY_BE_SURROGATE(data):
        _check_surrogates(fields)
    return fields


def _check_alone(body: Mapping[str, Any]) -> None:
    """Refuse a schema beside a grammar: llama-server would leave the schema out of account."""
    if body.get("grammar") is not None and body["json_schema"] is not None:
        raise RefusedError(400, "json_schema and grammar exclude each other", code="invalid_value", param="json_schema")


def _refuse_name(endpoint: str, name: str) -> RefusedError:
    shown = name[:MAX_NAME_SHOWN]
    if name in REFUSED:
        reason = f"the field {name} is not taken: {REFUSED[name]}"
    else:
        near = _find_meant(endpoint, shown) or suggest_names(shown, tuple(FIELDS[endpoint]))
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        reason = f"there is no field {shown!r} here{hint}"
    return RefusedError(400, reason, code="unknown_field", param=shown)


def _refuse_json(reason: str) -> RefusedError:
    return RefusedError(400, f"the body cannot be read as JSON: {reason}", code="invalid_json")


class _NotJsonError(ValueError):
    """What Python would read, or read in one of two ways."""


def _take_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise _NotJsonError("a name is there twice in one object")
    return fields


def _take_float(digits: str) -> float:
    number = float(digits)
    if number - number != 0:
        raise _NotJsonError(f"{digits[:MAX_NAME_SHOWN]} is too large")
    return number


def _refuse_constant(name: str) -> float:
    raise _NotJsonError(f"{name} is not JSON")


_decode = JSONDecoder(object_pairs_hook=_take_object, parse_float=_take_float, parse_constant=_refuse_constant).decode
_encode = JSONEncoder(ensure_ascii=False).encode


def _check_density(data: bytes) -> None:
    """Refuse a body of too many values before they are made: 2.7 million empty lists take a second and 200 MB.

    What stands in strings counts for nothing, however many commas a text has.
    """
    if sum(map(data.count, (b",", b":", b"[", b"{"))) <= MAX_ALL_NAMES:
        return
    bare = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    strings = bare.count(b'"') // 2
    outside = b"" if strings > MAX_VALUES else b"".join(bare.split(b'"')[::2])
    if max(strings, outside.count(b",")) > MAX_VALUES:
        raise _refuse_json(f"it has more than {MAX_VALUES} values")
    if outside.count(b"[") + outside.count(b"{") > MAX_CONTAINERS:
        raise _refuse_containers()
    if outside.count(b":") > MAX_ALL_NAMES:
        raise _refuse_json(f"it has more than {MAX_ALL_NAMES} names in all")


def _check_shape(fields: dict[str, Any]) -> None:
    """Refuse what is nested too deeply, and objects with too many names, each by itself and all together."""
    level: list[Any] = [fields]
    names = containers = 0
    for _ in range(MAX_BODY_DEPTH):
        objects = [container for container in level if type(container) is dict]
        names += sum(map(len, objects))
        for one in objects:
            if len(one) > MAX_NAMES:
                raise _refuse_names(_find_place(fields, one), len(one))
        if names > MAX_ALL_NAMES:
            raise _refuse_json(f"it has more than {MAX_ALL_NAMES} names in all")
        level = [
            item
            for container in level
            for item in (container.values() if type(container) is dict else container)
            if type(item) is dict or type(item) is list
        ]
        if not level:
            return
        containers += len(level)
        if containers > MAX_CONTAINERS:
            raise _refuse_containers()
    raise _refuse_json(f"it is nested more than {MAX_BODY_DEPTH} levels deep")


def _find_place(fields: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Return how to get to an object, its names cut short."""
    level: list[tuple[str, Any]] = [("", fields)]
    for path, container in level:
        if container is wanted:
            return path[1:]
        pairs: Any = container.items() if type(container) is dict else enumerate(container)
        level += [(f"{path:.60}.{name!s:.40}", item) for name, item in pairs if type(item) in {dict, list}]
    return ""


def _refuse_containers() -> RefusedError:
    return _refuse_json(f"it has more than {MAX_CONTAINERS} objects and lists")


def _refuse_names(path: str, count: int) -> RefusedError:
    place = path or "the body"
    return RefusedError(400, f"{place} has {count} names, and may have {MAX_NAMES}", code="invalid_value", param=place)


def _check_surrogates(fields: dict[str, Any]) -> None:
    """Refuse half of a character, which has no bytes in UTF-8."""
    try:
        _encode(fields).encode()
    except UnicodeEncodeError:
        raise _refuse_json("it has half of a surrogate pair") from None
