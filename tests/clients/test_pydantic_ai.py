"""Pydantic AI asks for texts, values and calls by both of OpenAI's APIs."""

from __future__ import annotations

import asyncio
from typing import Any

import pydantic
import pytest
from pydantic_ai import Agent, ModelHTTPError, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.process.gateway.clients.gateways import ANSWER, KEY, QUESTION

KINDS = (OpenAIChatModel, OpenAIResponsesModel)
SETTINGS: Any = {"temperature": 0, "max_tokens": 60}


class Sum(pydantic.BaseModel):
    """The answer to a sum."""

    answer: int


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def make_agent(kind: Any, v1: str, model: str = "demo", **options: Any) -> Any:
    provider = OpenAIProvider(base_url=v1, api_key=KEY)
    return Agent(kind(model, provider=provider), model_settings=SETTINGS, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_and_a_value(v1: str, kind: Any) -> None:
    run = make_agent(kind, v1).run_sync(QUESTION)
    assert (run.output, run.usage.requests) == (ANSWER, 1)
    assert run.usage.output_tokens > 5
    assert make_agent(kind, v1, output_type=NativeOutput(Sum)).run_sync(QUESTION).output == Sum(answer=4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream(v1: str, kind: Any) -> None:
    async def main() -> list[str]:
        async with make_agent(kind, v1).run_stream(QUESTION) as stream:
            return [piece async for piece in stream.stream_text(delta=True, debounce_by=None)]

    pieces = asyncio.run(main())
    assert ("".join(pieces), len(pieces) > 1) == (ANSWER, True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_function_is_called_and_its_result_is_answered(v1: str, kind: Any) -> None:
    run = make_agent(kind, v1, tools=[add]).run_sync(QUESTION)
    assert (run.output, run.usage.tool_calls) == ("The answer is 4.", 1)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_says_what_was_wrong(v1: str, kind: Any) -> None:
    with pytest.raises(ModelHTTPError, match="there is demo") as gone:
        make_agent(kind, v1, "other").run_sync(QUESTION)
    assert gone.value.status_code == 404
