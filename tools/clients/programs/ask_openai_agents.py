"""OpenAI's Agents SDK lets the model call a function, whole and streamed, by both of OpenAI's APIs."""

import asyncio
import os

import openai
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)

set_tracing_disabled(True)


@function_tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def ask() -> None:
    """Ask by each API."""
    client = openai.AsyncOpenAI(
        base_url=os.environ["LLCUDA_URL"] + "/v1", api_key=os.environ["LLCUDA_KEY"], max_retries=0
    )
    for kind in (OpenAIChatCompletionsModel, OpenAIResponsesModel):
        common = {"name": "a", "model": kind(model="demo", openai_client=client)}
        agent = Agent(**common, model_settings=ModelSettings(temperature=0, max_tokens=60))
        whole = (await Runner.run(agent, "What is 2+2?")).final_output
        stream = Runner.run_streamed(agent, "What is 2+2?")
        async for _ in stream.stream_events():
            pass
        agent.tools = [add]
        called = (await Runner.run(agent, "What is 2+2?")).final_output
        print(kind.__name__, whole, stream.final_output, called)
        assert whole == stream.final_output == "2 + 2 = 4."
        assert called == "The answer is 4."


asyncio.run(ask())
