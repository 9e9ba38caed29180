"""Python types as schemas, and answers as their values."""

# ruff: noqa: PYI061, UP007, UP045 - every spelling of a type has to work
from __future__ import annotations

import enum
import json
import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NewType, Optional, Union

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from typing_extensions import NotRequired, Required, TypedDict

from llcuda.errors import SchemaMismatchError, UsageError
from llcuda.schema import compile_schema


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclass(frozen=True)
class Point:
    x: int
    y: float = 0.0


@dataclass
class Tree:
    name: str
    children: list[Tree] = field(default_factory=list)
    color: Color | None = None
    seen: bool = field(default=False, init=False)


@dataclass
class Positive:
    value: int

    def __post_init__(self) -> None:
        if self.value <= 0:
            raise ValueError("it is not positive")


class Movie(TypedDict):
    title: str
    year: NotRequired[int]


class Partial(TypedDict, total=False):
    name: Required[Annotated[str, "of the thing"]]
    size: int


class City(pydantic.BaseModel):
    name: str
    people: int = pydantic.Field(ge=0)
    twin: City | None = None


class Country(pydantic.BaseModel):
    capital: City
    flag: Literal["tricolour", "cross"]


Meters = NewType("Meters", float)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (bool, "true", True),
        (int, "4", 4),
        (int, "4.0", 4),
        (float, "4", 4.0),
        (str, '"é"', "é"),
        (None, "null", None),
        (Any, '{"a": [1]}', {"a": [1]}),
        (list, "[1]", [1]),
        (dict, '{"a": 1}', {"a": 1}),
        (tuple, "[1]", (1,)),
        (list[int], "[1, 2]", [1, 2]),
        (set[str], '["a", "b"]', {"a", "b"}),
        (frozenset[int], "[1]", frozenset({1})),
        (tuple[int, ...], "[1, 2, 3]", (1, 2, 3)),
        (tuple[int, str], '[1, "a"]', (1, "a")),
        (tuple[()], "[]", ()),
        (dict[str, list[float]], '{"a": [1]}', {"a": [1.0]}),
        (Literal["yes", "no"], '"no"', "no"),
        (Literal[1, True, None], "true", True),
        (Literal[1, True, None], "1.0", 1),
        (Color, '"blue"', Color.BLUE),
        (Level, "2", Level.HIGH),
        (Optional[int], "null", None),
        (int | str, '"a"', "a"),
        (Union[list[Point], Point], '{"x": 1}', Point(1)),
        (Annotated[int, "a number"], "3", 3),
        (Meters, "3", 3.0),
        (Point, '{"x": 1, "y": 2}', Point(1, 2.0)),
        (list[Point], '[{"x": 1}]', [Point(1)]),
        (Tree, '{"name": "a", "children": [{"name": "b", "color": "red"}]}', Tree("a", [Tree("b", color=Color.RED)])),
        (Movie, '{"title": "M"}', {"title": "M"}),
        (Partial, '{"name": "a"}', {"name": "a"}),
        (City, '{"name": "Rome", "people": 5}', City(name="Rome", people=5)),
        (
            list[Country],
            '[{"capital": {"name": "Bern", "people": 1, "twin": {"name": "B", "people": 2}}, "flag": "cross"}]',
            [Country(capital=City(name="Bern", people=1, twin=City(name="B", people=2)), flag="cross")],
        ),
    ],
)
def test_an_answer_becomes_a_value_of_the_type(kind: Any, text: str, value: Any) -> None:
    schema = compile_schema(kind)
    Draft202012Validator.check_schema(schema.document)
    found = schema.parse(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (bool, "1"),
        (int, "4.5"),
        (int, "true"),
        (float, '"4"'),
        (str, "null"),
        (list[int], '[1, "a"]'),
        (set[int], "[1, 1.0]"),
        (tuple[int, str], "[1]"),
        (tuple[int, str], '[1, "a", 2]'),
        (tuple[()], "[1]"),
        (dict[str, int], '{"a": "b"}'),
        (Literal[1], "true"),
        (Literal["yes"], '"maybe"'),
        (Color, '"green"'),
        (Optional[int], '"a"'),
        (Point, "{}"),
        (Point, '{"x": 1, "z": 2}'),
        (Point, '{"x": "1"}'),
        (Tree, '{"name": "a", "children": [{"nam": "b"}]}'),
        (Tree, '{"name": "a", "seen": true}'),
        (Positive, '{"value": -1}'),
        (Movie, '{"year": 1931}'),
        (Partial, '{"size": 1}'),
        (City, '{"name": "Rome", "people": -5}'),
        (City, '{"name": "Rome", "people": 5, "twin": {"name": 1, "people": 1}}'),
    ],
)
def test_an_answer_of_another_type_is_an_error(kind: Any, text: str) -> None:
    with pytest.raises(SchemaMismatchError) as caught:
        compile_schema(kind).parse(text)
    assert caught.value.text == text


def test_what_the_class_itself_refuses_is_an_error_with_its_reason() -> None:
    with pytest.raises(SchemaMismatchError, match="it is not positive"):
        compile_schema(Positive).parse('{"value": 0}')


def test_a_number_that_is_too_large_for_a_float_is_an_error() -> None:
    with pytest.raises(SchemaMismatchError):
        compile_schema(float).parse("9" * 400)
    assert math.isclose(compile_schema(float).parse("1e300"), 1e300)


@pytest.mark.parametrize(
    "kind",
    [
        bytes,
        complex,
        object(),
        3,
        "int",
        [int],
        (int,),
        list[bytes],
        dict[int, str],
        Literal[b"x"],
        print,
        type,
        {1, 2},
    ],
)
def test_a_type_without_a_schema_is_refused_with_those_that_have_one(kind: object) -> None:
    with pytest.raises(UsageError) as caught:
        compile_schema(kind)
    assert "dataclass" in caught.value.hint


def test_a_class_whose_fields_cannot_be_read_is_refused() -> None:
    @dataclass
    class Local:
        other: Missing  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(UsageError, match="Local"):
        compile_schema(Local)


def test_two_classes_of_the_same_name_keep_apart() -> None:
    first: Any = dataclass(type("Same", (), {"__annotations__": {"a": int}}))
    second: Any = dataclass(type("Same", (), {"__annotations__": {"b": str}}))
    schema = compile_schema(tuple[first, second])
    found = schema.parse('[{"a": 1}, {"b": "x"}]')
    assert (found[0].a, found[1].b) == (1, "x")


def _nest(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    pairs = st.tuples(inner, inner)
    one: list[Any] = [list.__class_getitem__, lambda kind: dict.__class_getitem__((str, kind)), Optional.__getitem__]
    two: list[Any] = [Union.__getitem__, tuple.__class_getitem__]
    return st.one_of(*(inner.map(make) for make in one), *(pairs.map(make) for make in two))


KINDS = st.recursive(
    st.sampled_from([bool, int, float, str, None, Color, Point, Movie, Literal["a", 1]]), _nest, max_leaves=5
)


@given(
    KINDS,
    st.recursive(
        st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([1.5, "a", "red", "x"]),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["x", "y", "title"]), inner, max_size=2)
        ),
        max_leaves=5,
    ),
)
def test_a_type_accepts_exactly_what_its_schema_accepts(kind: Any, value: Any) -> None:
    schema = compile_schema(kind)
    valid = Draft202012Validator(schema.document).is_valid(value)
    try:
        schema.parse(json.dumps(value))
    except SchemaMismatchError:
        assert not valid
    else:
        assert valid
