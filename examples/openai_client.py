"""Use the official openai package with a model on this machine: pip install openai."""

import openai

import llcuda

with llcuda.InferenceEngine() as engine:
    engine.load_model("demo")
    with openai.OpenAI(base_url=f"{engine.url}/v1", api_key=engine.api_key) as client:
        stream = client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": "What is 12+30?"}],
            temperature=0,
            stream=True,
        )
        for chunk in stream:
            print(chunk.choices[0].delta.content or "", end="")
        print()
