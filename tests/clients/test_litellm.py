"""LiteLLM asks by OpenAI's APIs, Ollama's and Anthropic's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import litellm
import pytest

from tests.process.gateway.clients.gateways import ANSWER, KEY, MESSAGES, PARAMETERS, gateway, leave_when_refused

if TYPE_CHECKING:
    from llcuda.gateway.gateway import Gateway

TOOL: Any = {"type": "function", "function": {"name": "add", "description": "Add.", "parameters": PARAMETERS}}
APIS = ("openai/demo", "ollama_chat/demo", "anthropic/demo")


def ask(running: Gateway, model: str = "openai/demo", **options: Any) -> Any:
    base = f"{running.url}/v1" if model.startswith("openai") else running.url
    asked: Any = {"messages": MESSAGES, "temperature": 0, "max_tokens": 60, "num_retries": 0, **options}
    return litellm.completion(model=model, api_base=base, api_key=KEY, **asked)


@pytest.mark.parametrize("model", APIS)
def test_whole_and_streamed_with_usage(running: Gateway, model: str) -> None:
    answer = ask(running, model)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (ANSWER, "stop")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 5
    chunks = list(ask(running, model, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == ANSWER
    assert chunks[-1].usage.completion_tokens == answer.usage.completion_tokens


@pytest.mark.parametrize("model", APIS)
def test_a_function_is_called_and_its_result_is_answered(running: Gateway, model: str) -> None:
    message = ask(running, model, tools=[TOOL]).choices[0].message
    (call,) = message.tool_calls
    assert (call.function.name, call.function.arguments.replace(" ", "")) == ("add", '{"a":2,"b":2}')
    result = {"role": "tool", "tool_call_id": call.id, "name": "add", "content": "4"}
    assert "4" in ask(running, model, tools=[TOOL], messages=[*MESSAGES, message, result]).choices[0].message.content


def test_responses(running: Gateway) -> None:
    answer = litellm.responses(
        model="openai/demo", input=MESSAGES, temperature=0, api_base=f"{running.url}/v1", api_key=KEY
    )
    assert answer.output[0].content[0].text == ANSWER


def test_each_status_is_its_own_exception(running: Gateway) -> None:
    with pytest.raises(litellm.NotFoundError, match="there is demo"):
        ask(running, "openai/other")
    with pytest.raises(litellm.BadRequestError, match="temperature"):
        ask(running, temperature=-1)
    with pytest.raises(litellm.ContextWindowExceededError):
        ask(running, messages=[{"role": "user", "content": "word " * 9000}])


def test_too_many_requests_are_repeated() -> None:
    with gateway(workers=1, max_in_flight=1) as running:
        endless: dict[str, Any] = {"logprobs": True, "top_logprobs": 20, "extra_body": {"ignore_eos": True}}
        busy = ask(running, stream=True, max_tokens=900, **endless)
        next(busy)
        with pytest.raises(litellm.RateLimitError):
            ask(running)
        leaving = leave_when_refused(running, busy.completion_stream.close)
        assert ask(running, num_retries=3).choices[0].message.content == ANSWER
        leaving.join()
