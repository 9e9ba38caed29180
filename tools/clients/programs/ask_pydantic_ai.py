"""Pydantic AI asks for texts and values by both of OpenAI's APIs."""

import os

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider


class Sum(BaseModel):
    """The answer to a sum."""

    answer: int


provider = OpenAIProvider(base_url=os.environ["LLCUDA_URL"] + "/v1", api_key=os.environ["LLCUDA_KEY"])
SETTINGS = {"temperature": 0, "max_tokens": 60}
for kind in (OpenAIChatModel, OpenAIResponsesModel):
    model = kind("demo", provider=provider)
    text = Agent(model, model_settings=SETTINGS).run_sync("What is 2+2?").output
    value = Agent(model, output_type=NativeOutput(Sum), model_settings=SETTINGS).run_sync("What is 2+2?").output
    print(kind.__name__, text, value)
    assert (text, value) == ("2 + 2 = 4.", Sum(answer=4))
