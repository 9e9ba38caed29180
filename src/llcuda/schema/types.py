"""The JSON schema of a Python type, and how a value of it is made out of JSON."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from typing import TYPE_CHECKING, Any

from llcuda.errors import UsageError
from llcuda.schema.validate import find_mismatch, freeze

if TYPE_CHECKING:
    from collections.abc import Callable

    Build = Callable[[Any], Any]
    Node = tuple[dict[str, Any], Build]

__all__ = ["read_type"]

_SCALARS: dict[Any, Node] = {
    bool: ({"type": "boolean"}, bool),
    int: ({"type": "integer"}, int),
    float: ({"type": "number"}, float),
    str: ({"type": "string"}, str),
    None: ({"type": "null"}, lambda _: None),
    type(None): ({"type": "null"}, lambda _: None),
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
    if reader.definitions:
        schema = {**schema, "$defs": reader.definitions}
    reader.document = schema
    return schema, build


class _TypeReader:
    """Reads one type; the classes in it become definitions, so that a class can refer to itself."""

    def __init__(self) -> None:
        self.document: dict[str, Any] = {}
        self.definitions: dict[str, Any] = {}
        self._names: dict[Any, str] = {}
        self._builds: dict[Any, Build] = {}

    def read(self, kind: Any) -> Node:
        if not isinstance(kind, typing.Hashable):
            raise _unsupported(kind)
        if kind in {Any, object}:
            return {}, _keep
        if kind in _SCALARS:
            return _SCALARS[kind]
        if hasattr(kind, "__supertype__"):
            return self.read(kind.__supertype__)
        if hasattr(kind, "__value__") and not isinstance(kind, type):
            return self.read(kind.__value__)
        origin = typing.get_origin(kind)
        return self._read_class(kind) if origin is None else self._read_generic(kind, origin)

    def _read_generic(self, kind: Any, origin: Any) -> Node:
        arguments = typing.get_args(kind)
        if origin is typing.Literal:
            return _choose(kind, arguments, arguments)
        if origin in {typing.Union, types.UnionType}:
            return self._read_union(arguments)
        if origin in {list, set, frozenset}:
            return self._read_array(origin, arguments[0])
        if origin is tuple:
            return self._read_tuple(arguments)
        if origin is dict and arguments[0] is str:
            schema, build = self.read(arguments[1])
            return {"type": "object", "additionalProperties": schema}, lambda value: {
                name: build(item) for name, item in value.items()
            }
        if _is_qualifier(origin) or hasattr(kind, "__metadata__"):
            return self.read(arguments[0] if arguments else origin)
        raise _unsupported(kind)

    def _read_class(self, kind: Any) -> Node:
        if kind in {list, set, frozenset, tuple}:
            return {"type": "array", **_unique(kind)}, kind
        if kind is dict:
            return {"type": "object"}, _keep
        if not isinstance(kind, type):
            raise _unsupported(kind)
        if issubclass(kind, enum.Enum):
            members = list(kind)
            return _choose(kind, [member.value for member in members], members)
        if hasattr(kind, "model_json_schema") and hasattr(kind, "model_validate"):
            return self._read_model(kind)
        if dataclasses.is_dataclass(kind) or hasattr(kind, "__required_keys__"):
            return self._refer(kind)
        raise _unsupported(kind)

    def _read_union(self, kinds: tuple[Any, ...]) -> Node:
        nodes = [self.read(kind) for kind in kinds]

        def build(value: Any) -> Any:
            for schema, build_one in nodes:
                if find_mismatch(value, {**schema, "$defs": self.definitions}) is None:
                    return build_one(value)
            raise ValueError("no alternative fits")  # cannot be: the value was validated

        return {"anyOf": [schema for schema, _ in nodes]}, build

    def _read_array(self, origin: Any, kind: Any) -> Node:
        schema, build = self.read(kind)
        return {"type": "array", "items": schema, **_unique(origin)}, lambda value: origin(map(build, value))

    def _read_tuple(self, kinds: tuple[Any, ...]) -> Node:
        if len(kinds) == 2 and kinds[1] is Ellipsis:  # noqa: PLR2004 - tuple[int, ...]
            return self._read_array(tuple, kinds[0])
        if not kinds:
            return {"type": "array", "maxItems": 0}, tuple
        nodes = [self.read(kind) for kind in kinds]
        schema = {
            "type": "array",
            "prefixItems": [schema for schema, _ in nodes],
            "minItems": len(nodes),
            "maxItems": len(nodes),
        }
        return schema, lambda value: tuple(build(item) for (_, build), item in zip(nodes, value, strict=True))

    def _read_model(self, kind: Any) -> Node:
        """Read a pydantic model, whose own definitions move to ours, where its references expect them."""
        schema = dict(kind.model_json_schema())
        for name, definition in schema.pop("$defs", {}).items():
            if self.definitions.setdefault(name, definition) != definition:
                raise UsageError(f"two classes of the schema are called {name}")
        return schema, kind.model_validate

    def _refer(self, kind: Any) -> Node:
        """Read a class with fields, once; return a reference to it."""
        if kind not in self._names:
            name = self._names[kind] = self._choose_name(kind)
            self.definitions[name] = {}
            self.definitions[name], self._builds[kind] = self._read_fields(kind)
        return {"$ref": f"#/$defs/{self._names[kind]}"}, self._build_later(kind)

    def _build_later(self, kind: Any) -> Build:
        """Return what builds a class that may not be read to its end yet: it can refer to itself."""

        def build(value: Any) -> Any:
            return self._builds[kind](value)

        return build

    def _choose_name(self, kind: Any) -> str:
        name = kind.__name__
        while name in self.definitions:
            name += "_"
        return str(name)

    def _read_fields(self, kind: Any) -> Node:
        nodes = {name: self.read(hint) for name, hint in _read_hints(kind).items()}
        schema: dict[str, Any] = {
            "type": "object",
            "properties": {name: node[0] for name, node in nodes.items()},
            "required": _required_names(kind, nodes),
            "additionalProperties": False,
        }
        make: Any = kind if dataclasses.is_dataclass(kind) else dict
        return schema, lambda value: make(**{name: nodes[name][1](item) for name, item in value.items()})


def _read_hints(kind: Any) -> dict[str, Any]:
    try:
        hints = typing.get_type_hints(kind, include_extras=True)
    except (NameError, TypeError) as error:
        raise UsageError(
            f"the fields of {kind.__name__} cannot be read: {error}",
            hint="Define the types that it uses at the top of a module.",
        ) from None
    if not dataclasses.is_dataclass(kind):
        return hints
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}


def _required_names(kind: Any, names: dict[str, Any]) -> list[str]:
    if dataclasses.is_dataclass(kind):
        missing = dataclasses.MISSING
        return [
            field.name
            for field in dataclasses.fields(kind)
            if field.init and field.default is missing and field.default_factory is missing
        ]
    # With annotations kept as strings, the class does not know of its NotRequired keys; the hints do.
    qualifiers = {name: _find_qualifiers(hint) for name, hint in _read_hints(kind).items()}
    known = kind.__required_keys__
    return [
        name
        for name in names
        if "Required" in qualifiers[name] or ("NotRequired" not in qualifiers[name] and name in known)
    ]


def _find_qualifiers(hint: Any) -> set[str]:
    found: set[str] = set()
    while (origin := typing.get_origin(hint)) is not None and (_is_qualifier(origin) or hasattr(hint, "__metadata__")):
        found.add(getattr(origin, "_name", ""))
        hint = typing.get_args(hint)[0]
    return found


def _is_qualifier(origin: Any) -> bool:
    return getattr(origin, "_name", None) in _QUALIFIERS or origin is typing.Annotated


def _choose(kind: Any, values: Any, members: Any) -> Node:
    """Return the schema of a choice between values, which stand for the members."""
    if not values or not all(value is None or isinstance(value, (bool, int, float, str)) for value in values):
        raise _unsupported(kind)
    chosen = {freeze(value): member for value, member in zip(values, members, strict=True)}
    return {"enum": list(values)}, lambda value: chosen[freeze(value)]


def _unique(kind: Any) -> dict[str, Any]:
    return {"uniqueItems": True} if kind in {set, frozenset} else {}


def _keep(value: Any) -> Any:
    return value


def _unsupported(kind: Any) -> UsageError:
    return UsageError(f"{kind!r} has no JSON schema", hint=_KNOWN)
