"""Get an answer as a Python object: the schema constrains the model, and the result is checked."""

import dataclasses

import llcuda


@dataclasses.dataclass
class Sum:
    """The shape of the answer."""

    answer: int


with llcuda.InferenceEngine() as engine:
    engine.load_model("demo")
    result = engine.infer("What is 23+45? Answer in JSON.", schema=Sum, temperature=0)
    print(result.value)
