"""Instructor asks for values of a type."""

import os

import instructor
import openai
import pydantic


class Sum(pydantic.BaseModel):
    """The answer to a sum."""

    answer: int


client = openai.OpenAI(base_url=os.environ["LLCUDA_URL"] + "/v1", api_key=os.environ["LLCUDA_KEY"], max_retries=0)
for mode in (instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS, instructor.Mode.JSON):
    value = instructor.from_openai(client, mode=mode).chat.completions.create(
        model="demo", response_model=Sum, messages=[{"role": "user", "content": "What is 2+2?"}], temperature=0,
        max_tokens=60, max_retries=0,
    )  # fmt: skip
    print(mode, value)
    assert isinstance(value, Sum)
