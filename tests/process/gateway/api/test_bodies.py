"""What OpenAI's clients send, to a real llama-server: taken as OpenAI takes it, or refused with the place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from tests.process.gateway.clients.gateways import ANSWER, KEY, MESSAGES, PARAMETERS, gateway

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openai.types import CompletionUsage

    from llcuda.gateway.gateway import Gateway

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
USER = MESSAGES[0]
TOOL = {"type": "function", "function": {"name": "add", "parameters": PARAMETERS}}


@pytest.fixture(scope="module")
def running() -> Iterator[Gateway]:
    with gateway(workers=1) as started:
        yield started


@pytest.fixture(scope="module")
def vectors() -> Iterator[Gateway]:
    with gateway(workers=1, slots=1, embeddings=True) as started:
        yield started


def ask(running: Gateway, path: str, **fields: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {KEY}"}
    return httpx.post(f"{running.url}{path}", json=fields, headers=headers, timeout=60, trust_env=False)


def chat(running: Gateway, **fields: Any) -> httpx.Response:
    return ask(running, CHAT, **{"messages": MESSAGES, "max_tokens": 20, "temperature": 0, **fields})


def call(arguments: Any) -> dict[str, Any]:
    function = {"name": "add", "arguments": arguments}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]}


@pytest.mark.parametrize("arguments", ["{", "", '{"a": 1, "b"', "hello", "[1]", None, {"a": 1}])
def test_a_broken_call_of_a_tool_does_not_end_a_conversation(running: Gateway, arguments: Any) -> None:
    turns = [USER, call(arguments), {"role": "tool", "tool_call_id": "1", "content": "4"}, USER]
    answer = chat(running, messages=turns, tools=[TOOL])
    assert answer.status_code == 200, answer.text
    items = [USER, {"type": "function_call", "call_id": "1", "name": "add", "arguments": arguments},
             {"type": "function_call_output", "call_id": "1", "output": "4"}]  # fmt: skip
    answer = ask(running, "/v1/responses", input=items, max_output_tokens=2)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{**USER, "name": None}]},
        {"messages": [USER, {"role": "assistant", "content": "a", "reasoning_content": None, "refusal": None}, USER]},
        {"tools": [{"type": "function", "function": {"name": "f", "description": None, "parameters": None}}]},
        {"top_p": 0}, {"top_k": -1}, {"seed": 2**63 - 1}, {"seed": -5}, {"max_tokens": 20.0}, {"top_logprobs": 0},
        {"stop": [""]}, {"stop": ""}, {"model": ""}, {"n": 2}, {"moderation": {"model": "x"}},
        {"prompt_cache_options": {"mode": "auto"}}, {"thinking": {"type": "enabled"}},
    ],
)  # fmt: skip
def test_what_openai_takes_in_a_chat_is_taken(running: Gateway, fields: dict[str, Any]) -> None:
    answer = chat(running, **fields)
    assert answer.status_code == 200, answer.text
    if "messages" not in fields and "tools" not in fields:
        assert answer.json()["choices"][-1]["message"]["content"] == ANSWER


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"messages": [{"content": "a"}]}, "messages[0].role", "is missing"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]},
         "messages[0].content[0].text", "must be a string"),
        ({"messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]},
         "messages", "takes no image"),
        ({"n": 3}, "n", "2 at most"),
        ({"top_logprobs": 1}, "top_logprobs", "logprobs"),
        ({"tool_choice": "required"}, "tools", "without tools"),
        ({"functions": [{"name": "f"}]}, "functions", "in tools"),
        ({"web_search_options": {}}, "web_search_options", "nothing is searched"),
        ({"messages": [{"role": "user", "content": "hello " * 5000}]}, None, "available context size"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_in_the_envelope_and_in_the_clients_words(
    running: Gateway, fields: dict[str, Any], *, param: str | None, said: str
) -> None:
    answer = chat(running, **fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert type(error["code"]) is str
    assert said in error["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_no_tokens_are_none(running: Gateway, *, stream: bool) -> None:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=KEY, max_retries=0) as client:
        for limit in ({"max_tokens": 0}, {"max_completion_tokens": 0}):
            options: Any = {**limit, "stream": stream}
            answer: Any = client.chat.completions.create(model="demo", messages=MESSAGES, **options)
            if stream:
                choices = [choice for chunk in answer for choice in chunk.choices]
                assert not any(choice.delta.content for choice in choices)
                assert choices[-1].finish_reason == "length"
            else:
                assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("", "length")
                assert answer.usage.completion_tokens == 0


@pytest.mark.parametrize("stream", [False, True])
def test_probabilities_of_a_completion_have_its_shape(running: Gateway, *, stream: bool) -> None:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=KEY, max_retries=0) as client:
        options: Any = {"stream": stream, "max_tokens": 4, "logprobs": 2, "temperature": 0}
        answer: Any = client.completions.create(model="demo", prompt="Hi", **options)
        choices = [choice for chunk in (answer if stream else [answer]) for choice in chunk.choices if choice.logprobs]
    tokens = [token for choice in choices for token in choice.logprobs.tokens]
    offsets = [offset for choice in choices for offset in choice.logprobs.text_offset]
    assert "".join(tokens) == "".join(choice.text for choice in choices)
    assert offsets == [sum(map(len, tokens[:place])) for place in range(len(tokens))]
    assert all(len(top) == 2 for choice in choices for top in choice.logprobs.top_logprobs)
    assert all(number <= 0 for choice in choices for number in choice.logprobs.token_logprobs)


def count(usage: CompletionUsage | None) -> tuple[int, int, int]:
    assert usage is not None
    return usage.completion_tokens, usage.prompt_tokens, usage.total_tokens


def test_the_usage_is_that_of_all_choices_whole_and_streamed_and_is_said_once(running: Gateway) -> None:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=KEY, max_retries=0) as client:
        streams: Any = {"stream": True, "stream_options": {"include_usage": True}}
        limit: Any = {"model": "demo", "max_tokens": 3, "temperature": 0}
        (_, prompt, _) = count(client.chat.completions.create(messages=MESSAGES, **limit).usage)
        chunks = client.chat.completions.create(messages=MESSAGES, n=2, **limit, **streams)
        assert [count(chunk.usage) for chunk in chunks if chunk.usage] == [(6, prompt, 6 + prompt)]
        assert count(client.chat.completions.create(messages=MESSAGES, n=2, **limit).usage) == (6, prompt, 6 + prompt)
        prompts = ["Hi", "Hello there"]
        read = sum(count(client.completions.create(prompt=one, **limit).usage)[1] for one in prompts)
        chunks = client.completions.create(prompt=prompts, n=2, **limit, **streams)
        assert [count(chunk.usage) for chunk in chunks if chunk.usage] == [(12, read, 12 + read)]
        assert count(client.completions.create(prompt=prompts, n=2, **limit).usage) == (12, read, 12 + read)


def test_more_than_64_prompts_are_answered(running: Gateway) -> None:
    answer = ask(running, COMPLETIONS, prompt=["Hi"] * 65, max_tokens=1)
    assert len(answer.json()["choices"]) == 65


def test_best_of_as_many_as_are_wanted_is_what_is_wanted(running: Gateway) -> None:
    answer = ask(running, COMPLETIONS, prompt="Hi", max_tokens=1, best_of=2, n=2)
    assert len(answer.json()["choices"]) == 2


def test_allowed_tools_are_the_only_ones(running: Gateway) -> None:
    other = {"type": "function", "function": {"name": "other"}}
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "add"}}]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    answer = ask(running, "/apply-template", messages=MESSAGES, tools=[TOOL, other], tool_choice=choice)
    assert answer.status_code == 200, answer.text
    assert "add" in answer.json()["prompt"]
    assert "other" not in answer.json()["prompt"]
    allowed["tools"] = [{"type": "function", "function": {"name": "third"}}]
    refused = chat(running, tools=[TOOL], tool_choice=choice).json()["error"]
    assert (refused["param"], "third" in refused["message"]) == ("tool_choice", True)


def test_an_unknown_field_is_left_out_and_named_and_counted(running: Gateway) -> None:
    answer = chat(running, tomorrow={"a": 1}, **{"x\r\nX-Evil: 1": 2})
    assert answer.json()["choices"][0]["message"]["content"] == ANSWER
    assert answer.headers["x-llcuda-ignored"] == "tomorrow, x%0D%0AX-Evil%3A%201"
    assert "x-evil" not in answer.headers
    streamed = chat(running, tomorrow=1, stream=True)
    assert streamed.headers["x-llcuda-ignored"] == "tomorrow"
    page = httpx.get(f"{running.url}/metrics", headers={"Authorization": f"Bearer {KEY}"}, trust_env=False).text
    assert 'llcuda_ignored_fields_total{endpoint="chat"} 3.0' in page
    assert "x-llcuda-ignored" not in chat(running).headers
    error = chat(running, temprature=1).json()["error"]
    assert (error["param"], error["message"].endswith("did you mean temperature?")) == ("temprature", True)


def test_embeddings_that_are_off_are_the_requests_mistake(running: Gateway) -> None:
    for path, fields in (("/v1/embeddings", {"input": "a"}), ("/v1/rerank", {"query": "a", "documents": ["b"]})):
        answer = ask(running, path, **fields)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "not_supported", "model")
        assert "--server-option" in error["message"]


def test_a_text_longer_than_the_usual_batch_has_a_vector_and_one_that_is_too_long_is_told_both_counts(
    vectors: Gateway,
) -> None:
    answer = ask(vectors, "/v1/embeddings", input="a " * 700)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["prompt_tokens"] > 512
    refused = ask(vectors, "/v1/embeddings", input="a " * 20_000)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "input")
    assert "1024" in error["message"]


@pytest.mark.parametrize("form", ["float", "base64"])
def test_dimensions_may_be_the_models_own(vectors: Gateway, form: str) -> None:
    whole = ask(vectors, "/v1/embeddings", input=["a", "b"]).json()
    size = len(whole["data"][0]["embedding"])
    taken = ask(vectors, "/v1/embeddings", input=["a", "b"], dimensions=size, encoding_format=form)
    assert taken.status_code == 200, taken.text
    refused = ask(vectors, "/v1/embeddings", input="a", dimensions=size + 1, encoding_format=form).json()["error"]
    assert (refused["param"], str(size) in refused["message"]) == ("dimensions", True)
