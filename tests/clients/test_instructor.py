"""Instructor asks for values of a type, whole, in parts, and again if a value is not right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import instructor
import openai
import pydantic
import pytest
from instructor.core.exceptions import InstructorRetryException

from tests.process.gateway.clients.gateways import KEY, MESSAGES

if TYPE_CHECKING:
    from collections.abc import Iterator

ASKED: Any = {"model": "demo", "messages": MESSAGES, "temperature": 0, "max_tokens": 60}
MODES = (instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS, instructor.Mode.JSON)


class Sum(pydantic.BaseModel):
    """The answer to a sum."""

    answer: int


class Never(Sum):
    @pydantic.field_validator("answer")
    @classmethod
    def refuse(cls, _: int) -> int:
        raise ValueError("it is never right")


@pytest.fixture
def client(v1: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=v1, api_key=KEY, max_retries=0) as client:
        yield client


@pytest.mark.parametrize("mode", MODES)
def test_a_value(client: openai.OpenAI, mode: Any) -> None:
    value, raw = instructor.from_openai(client, mode=mode).chat.completions.create_with_completion(
        **ASKED, response_model=Sum, max_retries=0
    )
    assert isinstance(value, Sum)
    assert raw.usage.completion_tokens > 0


def test_a_value_in_parts(client: openai.OpenAI) -> None:
    parts = instructor.from_openai(client, mode=instructor.Mode.JSON_SCHEMA).chat.completions.create_partial(
        **ASKED, response_model=Sum
    )
    assert isinstance(list(parts)[-1].answer, int)


@pytest.mark.parametrize("mode", [instructor.Mode.JSON_SCHEMA, instructor.Mode.JSON])
def test_a_value_that_is_not_right_is_asked_for_again(client: openai.OpenAI, mode: Any) -> None:
    with pytest.raises(InstructorRetryException, match="never right") as gone:
        instructor.from_openai(client, mode=mode).chat.completions.create(**ASKED, response_model=Never, max_retries=2)
    assert gone.value.n_attempts == 3
