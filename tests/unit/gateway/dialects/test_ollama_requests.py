"""What a request of Ollama's API is to llama-server."""

from __future__ import annotations

from typing import Any

import pytest

from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.api.field_tables import FIELDS
from llcuda.gateway.dialects.ollama_requests import translate

ASKED = {"role": "user", "content": "Hi"}
HELD = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}
CALL = {"function": {"name": "f", "arguments": {"a": 1}}}


def chat(**fields: Any) -> dict[str, Any]:
    asked = translate("ollama_chat", {"model": "m:latest", "messages": [ASKED], **fields})
    assert (asked.endpoint, asked.path) == ("chat", "/v1/chat/completions")
    assert asked.fields.keys() <= FIELDS["chat"].keys()
    return asked.fields


def generate(**fields: Any) -> tuple[str, dict[str, Any]]:
    asked = translate("ollama_generate", {"model": "m", **fields})
    assert asked.fields.keys() <= FIELDS[asked.endpoint].keys()
    return asked.path, {name: value for name, value in asked.fields.items() if name != "model"}


def test_a_chat_is_streamed_unless_it_says_otherwise() -> None:
    assert chat() == {"model": "m", "messages": [ASKED], "stream": True}
    assert chat(stream=False, keep_alive=0, tools=[], think=None, format="")["stream"] is False


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"num_predict": -2, "typical_p": 0.5, "min_p": 0.1}, {"max_tokens": -1, "typical_p": 0.5, "min_p": 0.1}),
        ({"num_predict": 9, "num_keep": 1, "stop": ["x"]}, {"max_tokens": 9, "n_keep": 1, "stop": ["x"]}),
        ({"num_ctx": 2048, "num_gpu": 1, "use_mmap": True, "seed": None}, {}),
        ({"stream": False, "messages": [], "model": "x"}, {}),
    ],
)
def test_options_are_fields(options: Any, wanted: Any) -> None:
    assert chat(options=options) == {**chat(), **wanted}


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"format": "json"}, {"response_format": {"type": "json_object"}}),
        ({"format": {"type": "object"}}, {"response_format": HELD}),
        ({"think": False}, {"chat_template_kwargs": {"enable_thinking": False}}),
        ({"think": "low"}, {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "low"}),
        ({"logprobs": True, "top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
    ],
)
def test_what_an_answer_is_to_be_like(fields: Any, wanted: Any) -> None:
    assert chat(**fields) == {**chat(), **wanted}


def test_calls_and_pictures_are_written_as_openai_does() -> None:
    turns = [
        {"role": "user", "content": "See", "images": ["AA=="]},
        {"role": "assistant", "content": "", "thinking": "So.", "tool_calls": [CALL, CALL]},
        {"role": "tool", "content": "1", "tool_name": "f"},
        {"role": "tool", "content": "2"},
    ]
    picture, call, *results = chat(messages=turns)["messages"]
    assert picture["content"][1] == {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    assert call["reasoning_content"] == "So."
    assert [one["function"] for one in call["tool_calls"]] == [{"name": "f", "arguments": '{"a": 1}'}] * 2
    assert [one["tool_call_id"] for one in results] == [one["id"] for one in call["tool_calls"]]
    assert results[0]["name"] == "f"


@pytest.mark.parametrize(
    ("message", "path"),
    [
        ({"images": "x"}, "messages[0].images"),
        ({"images": [1]}, "messages[0].images"),
        ({"tool_calls": {"a": 1}}, "messages[0].tool_calls"),
        ({"tool_calls": [CALL, {"function": {"name": 1}}]}, "messages[0].tool_calls[1]"),
    ],
)
def test_what_is_none_of_ollamas_is_refused_with_its_place(message: Any, path: str) -> None:
    with pytest.raises(RefusedError) as caught:
        chat(messages=[{"role": "user", **message}])
    assert (caught.value.status, caught.value.param) == (400, path)


def test_a_prompt_is_a_chat_a_completion_or_an_infill() -> None:
    system = {"role": "system", "content": "Be."}
    path, fields = generate(prompt="Hi", system="Be.")
    assert (path, fields["messages"]) == ("/v1/chat/completions", [system, ASKED])
    assert generate(prompt="Hi", raw=True) == ("/completion", {"prompt": "Hi", "stream": True})
    path, fields = generate(prompt="a", suffix="b", format={"type": "object"})
    assert path == "/infill"
    assert fields == {"input_prefix": "a", "input_suffix": "b", "stream": True, "json_schema": {"type": "object"}}
    assert generate(prompt="") == ("/tokenize", {"content": ""})


def test_texts_to_embed() -> None:
    assert translate("ollama_embed", {"model": "m", "input": ["a"], "dimensions": 8}).fields == {
        "model": "m", "input": ["a"], "dimensions": 8,
    }  # fmt: skip
    assert translate("ollama_embeddings", {"model": "m", "prompt": "a"}).fields == {"model": "m", "input": "a"}
