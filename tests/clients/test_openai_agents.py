"""OpenAI's Agents SDK lets the model call a function, whole and streamed, by both of OpenAI's APIs."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)

from tests.process.gateway.clients.gateways import ANSWER, KEY, QUESTION

set_tracing_disabled(disabled=True)


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def make_agent(kind: Any, client: openai.AsyncOpenAI, model: str = "demo", **options: Any) -> Any:
    settings = ModelSettings(temperature=0, max_tokens=60, include_usage=True)
    return Agent(name="a", model=kind(model=model, openai_client=client), model_settings=settings, **options)


@pytest.mark.parametrize("kind", [OpenAIChatCompletionsModel, OpenAIResponsesModel])
def test_texts_streams_calls_and_errors(v1: str, kind: Any) -> None:
    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=v1, api_key=KEY, max_retries=0) as client:
            whole = await Runner.run(make_agent(kind, client), QUESTION)
            assert whole.final_output == ANSWER
            assert whole.context_wrapper.usage.output_tokens > 5
            stream = Runner.run_streamed(make_agent(kind, client), QUESTION)
            kinds = {event.type async for event in stream.stream_events()}
            assert (stream.final_output, "raw_response_event" in kinds) == (ANSWER, True)
            assert stream.context_wrapper.usage.output_tokens == whole.context_wrapper.usage.output_tokens
            adding = make_agent(kind, client, tools=[function_tool(add)])
            called = await Runner.run(adding, QUESTION)
            assert (called.final_output, called.context_wrapper.usage.requests) == ("The answer is 4.", 2)
            streamed = Runner.run_streamed(adding, QUESTION)
            assert [event async for event in streamed.stream_events()]
            assert streamed.final_output == "The answer is 4."
            with pytest.raises(openai.NotFoundError, match="there is demo"):
                await Runner.run(make_agent(kind, client, "other"), QUESTION)

    asyncio.run(main())
