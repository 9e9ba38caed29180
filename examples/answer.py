"""Load a model, ask it, and look at the figures."""

import sys

import llcuda

model = sys.argv[1] if len(sys.argv) > 1 else "demo"
with llcuda.InferenceEngine() as engine:
    engine.load_model(model)
    result = engine.infer("What is the capital of France?", max_tokens=50, temperature=0)
    print(result.text)
    print(f"{result.tokens_generated} tokens in {result.latency_ms:.0f} ms, {result.tokens_per_sec:.0f} tokens/s")
