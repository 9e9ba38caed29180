"""The JSON schema of a Python type, and how a value of it is made out of JSON."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from typing import TYPE_CHECKING, Any

from llcuda.errors import UsageError
from llcuda.schema.validate import Run, Site, freeze

if TYPE_CHECKING:
    from collections.abc import Callable

    Build = Callable[[Any], Any]
    Node = tuple[dict[str, Any], Build]

__all__ = ["read_type"]


def _keep(value: Any) -> Any:
    return value


_PLAIN: dict[Any, Node] = {
    Any: ({}, _keep),
    object: ({}, _keep),
    bool: ({"type": "boolean"}, bool),
    int: ({"type": "integer"}, int),
    float: ({"type": "number"}, float),
    str: ({"type": "string"}, str),
    **dict.fromkeys((None, type(None)), ({"type": "null"}, _keep)),
    dict: ({"type": "object"}, _keep),
    **{kind: ({"type": "array"}, kind) for kind in (list, tuple)},
    **{kind: ({"type": "array", "uniqueItems": True}, kind) for kind in (set, frozenset)},
}
_QUALIFIERS = frozenset({"Annotated", "NotRequired", "ReadOnly", "Required"})
_KNOWN = (
    "Use bool, int, float, str, None, list, set, tuple, dict[str, …], Literal, Enum, Optional, Union, a dataclass, "
    "a TypedDict, a pydantic model, or a JSON schema."
)


def read_type(kind: object) -> Node:
    """Return the schema of a type, and the function that makes the type's value out of a value that holds to it.

    Raises UsageError for a type that has none.
    """
    reader = _TypeReader()
    schema, build = reader.read(kind)
    return {**schema, "$defs": reader.definitions} if reader.definitions else schema, build


class _TypeReader:
    """Reads one type; the classes in it become definitions, so that a class can refer to itself."""

    def __init__(self) -> None:
        self.definitions: dict[str, Any] = {}
        self._names: dict[Any, str] = {}
        self._builds: dict[Any, Build] = {}

    def read(self, kind: Any) -> Node:
        if not isinstance(kind, typing.Hashable):
            raise _unsupported(kind)
        if kind in _PLAIN:
            return _PLAIN[kind]
        for alias in ("__supertype__", "__value__"):
            if hasattr(kind, alias) and not isinstance(kind, type):
                return self.read(getattr(kind, alias))
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if _is_qualifier(origin):
            return self.read(arguments[0])
        reader = _READERS.get(origin) if arguments or origin is tuple else None
        return reader(self, kind, arguments) if reader else self._read_class(kind)

    def _read_class(self, kind: Any) -> Node:
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return _choose(kind, [member.value for member in kind], list(kind))
        if isinstance(kind, type) and hasattr(kind, "model_json_schema") and hasattr(kind, "model_validate"):
            return self._read_model(kind)
        if isinstance(kind, type) and (dataclasses.is_dataclass(kind) or hasattr(kind, "__required_keys__")):
            return self._refer(kind)
        raise _unsupported(kind)

    def _read_union(self, _: Any, kinds: tuple[Any, ...]) -> Node:
        nodes = [self.read(kind) for kind in kinds]

        def build(value: Any) -> Any:
            run = Run({"$defs": self.definitions})
            return next(one for schema, one in nodes if Site(run, schema).find(value, schema) is None)(value)

        return {"anyOf": [schema for schema, _ in nodes]}, build

    def _read_array(self, kind: Any, kinds: tuple[Any, ...]) -> Node:
        origin = typing.get_origin(kind)
        (schema, build), (plain, _) = self.read(kinds[0]), _PLAIN[origin]
        return {**plain, "items": schema}, lambda value: origin(map(build, value))

    def _read_tuple(self, kind: Any, kinds: tuple[Any, ...]) -> Node:
        if len(kinds) == 2 and kinds[1] is Ellipsis:  # noqa: PLR2004 - tuple[int, ...]
            return self._read_array(kind, kinds)
        nodes = [self.read(one) for one in kinds]
        prefix = {"prefixItems": [schema for schema, _ in nodes], "minItems": len(nodes)} if nodes else {}
        return {"type": "array", **prefix, "maxItems": len(nodes)}, lambda value: tuple(
            build(item) for (_, build), item in zip(nodes, value, strict=True)
        )

    def _read_mapping(self, kind: Any, kinds: tuple[Any, ...]) -> Node:
        if kinds[0] is not str:
            raise _unsupported(kind)
        schema, build = self.read(kinds[1])
        return {"type": "object", "additionalProperties": schema}, lambda value: {
            name: build(item) for name, item in value.items()
        }

    def _read_model(self, kind: Any) -> Node:
        """Read a pydantic model, whose own definitions move to ours, where its references expect them."""
        schema = dict(kind.model_json_schema())
        for name, definition in schema.pop("$defs", {}).items():
            if self.definitions.setdefault(name, definition) != definition:
                raise UsageError(f"two classes of the schema are called {name}")
        return schema, kind.model_validate

    def _refer(self, kind: Any) -> Node:
        """Read a class with fields, once; return a reference to it, and what builds it once it is read to its end."""
        if kind not in self._names:
            name = kind.__name__
            while name in self.definitions:
                name += "_"
            self._names[kind], self.definitions[name] = name, {}
            self.definitions[name], self._builds[kind] = self._read_fields(kind)
        return {"$ref": f"#/$defs/{self._names[kind]}"}, lambda value: self._builds[kind](value)  # noqa: PLW0108

    def _read_fields(self, kind: Any) -> Node:
        fields = _find_fields(kind)
        nodes = {name: self.read(hint) for name, (hint, _) in fields.items()}
        make: Any = kind if dataclasses.is_dataclass(kind) else dict
        return {
            "type": "object",
            "properties": {name: schema for name, (schema, _) in nodes.items()},
            "required": [name for name, (_, is_required) in fields.items() if is_required],
            "additionalProperties": False,
        }, lambda value: make(**{name: nodes[name][1](item) for name, item in value.items()})


_READERS: dict[Any, Callable[[_TypeReader, Any, tuple[Any, ...]], Node]] = {
    typing.Literal: lambda _, kind, values: _choose(kind, values, values),
    **dict.fromkeys((typing.Union, types.UnionType), _TypeReader._read_union),  # noqa: SLF001
    **dict.fromkeys((list, set, frozenset), _TypeReader._read_array),  # noqa: SLF001
    tuple: _TypeReader._read_tuple,  # noqa: SLF001
    dict: _TypeReader._read_mapping,  # noqa: SLF001
}


def _find_fields(kind: Any) -> dict[str, tuple[Any, bool]]:
    """Return the type of each field, and whether it must be there."""
    try:
        hints = typing.get_type_hints(kind, include_extras=True)
    except (NameError, TypeError) as error:
        raise UsageError(
            f"the fields of {kind.__name__} cannot be read: {error}",
            hint="Define the types that it uses at the top of a module.",
        ) from None
    if not dataclasses.is_dataclass(kind):
        return {name: (hint, _is_required(hint, name in kind.__required_keys__)) for name, hint in hints.items()}
    defaults = {field.name: (field.default, field.default_factory) for field in dataclasses.fields(kind) if field.init}
    return {name: (hints[name], all(one is dataclasses.MISSING for one in both)) for name, both in defaults.items()}


def _is_required(hint: Any, is_said: bool) -> bool:  # noqa: FBT001
    """Tell it by a hint: with annotations kept as strings, the class does not know of its NotRequired keys."""
    while _is_qualifier(origin := typing.get_origin(hint)):
        is_said = {"Required": True, "NotRequired": False}.get(getattr(origin, "_name", ""), is_said)
        hint = typing.get_args(hint)[0]
    return is_said


def _is_qualifier(origin: Any) -> bool:
    return getattr(origin, "_name", None) in _QUALIFIERS or origin is typing.Annotated


def _choose(kind: Any, values: Any, members: Any) -> Node:
    """Return the schema of a choice between values, which stand for the members."""
    if not values or not all(value is None or isinstance(value, (bool, int, float, str)) for value in values):
        raise _unsupported(kind)
    chosen = {freeze(value): member for value, member in zip(values, members, strict=True)}
    return {"enum": list(values)}, lambda value: chosen[freeze(value)]


def _unsupported(kind: Any) -> UsageError:
    return UsageError(f"{kind!r} has no JSON schema", hint=_KNOWN)
