"""LiteLLM asks by OpenAI's API, Ollama's and Anthropic's."""

import os

import litellm

URL, KEY = os.environ["LLCUDA_URL"], os.environ["LLCUDA_KEY"]
ASKED = {"messages": [{"role": "user", "content": "What is 2+2?"}], "temperature": 0, "max_tokens": 60, "api_key": KEY}

for model, base in (("openai/demo", f"{URL}/v1"), ("ollama_chat/demo", URL), ("anthropic/demo", URL)):
    whole = litellm.completion(model=model, api_base=base, **ASKED).choices[0].message.content
    stream = litellm.completion(model=model, api_base=base, stream=True, **ASKED)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    print(model, whole, streamed)
    assert whole == streamed == "2 + 2 = 4."
response = litellm.responses(model="openai/demo", input="What is 2+2?", api_base=f"{URL}/v1", api_key=KEY)
assert response.output
