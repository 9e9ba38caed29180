"""The JSON schemas that pydantic makes of many types, each alone and inside of others."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import ipaddress
import pathlib
import uuid
from typing import Annotated, Any, Literal, NamedTuple, Optional

import annotated_types as at
import pydantic
from typing_extensions import TypedDict

__all__ = ["TYPES", "make_pydantic_schemas"]


class Color(enum.Enum):
    """A choice."""

    RED = "red"
    BLUE = "blue"


class Pair(NamedTuple):
    """Two values."""

    first: int
    second: str = "b"


class Movie(TypedDict, total=False):
    """Names that may be left out."""

    title: str


class Cat(pydantic.BaseModel):
    """One of two kinds."""

    kind: Literal["cat"]
    lives: Annotated[int, pydantic.Field(ge=1, le=9)] = 9


class Dog(pydantic.BaseModel):
    """The other."""

    model_config = pydantic.ConfigDict(extra="forbid", json_schema_extra={"examples": [{"kind": "dog"}], "x-order": 1})
    kind: Literal["dog"]
    friends: list[Dog | Cat] = []


TYPES: list[Any] = [
    bool, int, float, str, bytes, None, Any, decimal.Decimal, dt.date, dt.time, dt.datetime,
    dt.timedelta, uuid.UUID, pathlib.Path, ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network,
    pydantic.AnyUrl, pydantic.HttpUrl, pydantic.Json, pydantic.SecretStr, pydantic.ByteSize, pydantic.Base64Str, Color,
    Literal["a", 1] | None, Pair, Movie, Cat, Dog, list[int], set[str], frozenset[Color], tuple[int, str],
    tuple[int, ...], dict[str, float], dict[Color, int], dict[int, str], dict[Literal["a", "b"], list[int]], int | str,
    Annotated[float, at.Interval(ge=0, le=1)], Annotated[float, at.Gt(0)], Annotated[int, at.MultipleOf(5)],
    Annotated[str, at.Len(1, 20)], Annotated[str, pydantic.StringConstraints(pattern=r"^\d{3}-\w+$", max_length=9)],
    Annotated[str, pydantic.StringConstraints(pattern=r"[A-Z]")], Annotated[list[int], at.Len(1, 3)],
    Annotated[Cat | Dog, pydantic.Field(discriminator="kind")], dict[Annotated[str, at.Len(1, 3)], int],
    dict[Annotated[str, pydantic.StringConstraints(pattern="^[a-z]+$")], int], pydantic.PastDate, pydantic.PositiveInt,
]  # fmt: skip


def make_pydantic_schemas() -> dict[str, dict[str, Any]]:
    """Return the schemas by what they are of."""
    found: dict[str, dict[str, Any]] = {}
    kind: Any
    for place, kind in enumerate(TYPES):
        model: Any = pydantic.create_model("Model", value=(kind, ...), other=(Optional[kind], None))  # noqa: UP045 - None | None is none
        for name, one in (("alone", kind), ("list", list[kind]), ("model", model), ("deep", dict[str, list[model]])):
            schema = pydantic.TypeAdapter(one).json_schema()
            found[f"pydantic {place} {getattr(kind, '__name__', kind)!s:.40} {name}"] = schema
    return found
