"""OpenAI's own client asks a gateway for everything that it has methods for."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import openai
import pydantic
import pytest

from tests.process.gateways import ANSWER, KEY, MESSAGES, PARAMETERS, QUESTION, gateway, is_busy
from tests.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llcuda.gateway.gateway import Gateway

TOOL: Any = {"type": "function", "function": {"name": "add", "description": "Add.", "parameters": PARAMETERS}}
RESPONSE_TOOL: Any = {"type": "function", "name": "add", "strict": True, "parameters": PARAMETERS}
NAMED: Any = {"type": "function", "function": {"name": "add"}}
LONG: dict[str, Any] = {"max_tokens": 900, "extra_body": {"ignore_eos": True}}


class Sum(pydantic.BaseModel):
    answer: int


@pytest.fixture(scope="module")
def running() -> Iterator[Gateway]:
    with gateway() as running:
        yield running


@pytest.fixture(scope="module")
def client(running: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


class TestChat:
    def test_whole(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(model="demo", messages=MESSAGES, temperature=0)
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (ANSWER, "stop")
        assert answer.usage is not None
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens

    def test_streamed_with_its_usage(self, client: openai.OpenAI) -> None:
        options: Any = {"include_usage": True}
        stream = client.chat.completions.create(
            model="demo", messages=MESSAGES, temperature=0, stream=True, stream_options=options
        )
        chunks = list(stream)
        pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
        assert "".join(pieces) == ANSWER
        assert len([piece for piece in pieces if piece]) > 5
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens > 5

    def test_gathered_by_the_client(self, client: openai.OpenAI) -> None:
        with client.chat.completions.stream(model="demo", messages=MESSAGES, temperature=0) as stream:
            kinds = {event.type for event in stream}
            assert stream.get_final_completion().choices[0].message.content == ANSWER
        assert {"chunk", "content.delta", "content.done"} <= kinds

    def test_several_answers(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(model="demo", messages=MESSAGES, n=2, max_tokens=5)
        assert [choice.index for choice in answer.choices] == [0, 1]

    def test_probabilities(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(
            model="demo", messages=MESSAGES, temperature=0, logprobs=True, top_logprobs=3
        )
        told = answer.choices[0].logprobs
        assert told is not None
        assert told.content is not None
        assert "".join(token.token for token in told.content) == ANSWER
        assert {len(token.top_logprobs) for token in told.content} == {3}
        assert all(token.logprob <= 0 for token in told.content)


class TestTools:
    @pytest.mark.parametrize("choice", ["auto", "required", NAMED])
    def test_a_function_is_called(self, client: openai.OpenAI, choice: Any) -> None:
        answer = client.chat.completions.create(
            model="demo", messages=MESSAGES, tools=[TOOL], tool_choice=choice, temperature=0, max_tokens=60
        )
        assert answer.choices[0].finish_reason == "tool_calls"
        (call,) = answer.choices[0].message.tool_calls or []
        assert call.type == "function"
        assert (call.function.name, call.function.arguments) == ("add", '{"a": 2, "b": 2}')

    def test_the_function_that_is_named_is_called_with_probabilities_too(self, client: openai.OpenAI) -> None:
        other: Any = {"type": "function", "function": {"name": "other", "parameters": PARAMETERS}}
        chosen: Any = {"type": "function", "function": {"name": "other"}}
        answer = client.chat.completions.create(
            model="demo",
            messages=MESSAGES,
            tools=[TOOL, other],
            tool_choice=chosen,
            logprobs=True,
            temperature=0,
            max_tokens=60,
        )
        called: Any = answer.choices[0].message.tool_calls
        assert [call.function.name for call in called] == ["other"]

    def test_none_is_called_where_none_may_be(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(
            model="demo", messages=MESSAGES, tools=[TOOL], tool_choice="none", temperature=0, max_tokens=60
        )
        assert answer.choices[0].message.tool_calls is None
        assert answer.choices[0].finish_reason == "stop"

    def test_a_call_is_streamed_and_its_result_is_answered(self, client: openai.OpenAI) -> None:
        with client.chat.completions.stream(
            model="demo", messages=MESSAGES, tools=[TOOL], tool_choice="required", temperature=0, max_tokens=60
        ) as stream:
            message = stream.get_final_completion().choices[0].message
        (call,) = message.tool_calls or []
        assert call.function.arguments == '{"a": 2, "b": 2}'
        result: Any = {"role": "tool", "tool_call_id": call.id, "content": "4"}
        turns = [*MESSAGES, message.model_dump(exclude_none=True, exclude={"parsed"}), result]
        for turn in turns:
            for made in turn.get("tool_calls", ()):
                made["function"].pop("parsed_arguments", None)
        answer = client.chat.completions.create(
            model="demo", messages=turns, tools=[TOOL], temperature=0, max_tokens=60
        )
        assert "4" in (answer.choices[0].message.content or "")


class TestCompletions:
    def test_whole_and_streamed_with_probabilities(self, client: openai.OpenAI) -> None:
        asked: Any = {"model": "demo", "prompt": QUESTION, "max_tokens": 4, "temperature": 0, "logprobs": 2}
        whole = client.completions.create(**asked).choices[0]
        assert whole.finish_reason == "length"
        assert whole.logprobs is not None
        told: Any = whole.logprobs.model_dump()["content"]
        assert "".join(token["token"] for token in told) == whole.text
        assert [len(token["top_logprobs"]) for token in told] == [2] * 4
        chunks = list(client.completions.create(**asked, stream=True))
        assert "".join(chunk.choices[0].text for chunk in chunks) == whole.text

    def test_several_prompts(self, client: openai.OpenAI) -> None:
        answer = client.completions.create(model="demo", prompt=["a", "b", "c"], max_tokens=2)
        assert sorted(choice.index for choice in answer.choices) == [0, 1, 2]


class TestResponses:
    def test_whole(self, client: openai.OpenAI) -> None:
        answer = client.responses.create(model="demo", input=QUESTION, temperature=0)
        assert (answer.output_text, answer.status) == (ANSWER, "completed")
        assert answer.usage is not None
        assert answer.usage.output_tokens > 5

    def test_with_instructions_and_a_conversation(self, client: openai.OpenAI) -> None:
        turns: Any = [*MESSAGES, {"role": "assistant", "content": ANSWER}, *MESSAGES]
        answer = client.responses.create(model="demo", input=turns, instructions="Be brief.", max_output_tokens=20)
        assert answer.output_text

    def test_streamed(self, client: openai.OpenAI) -> None:
        events = list(client.responses.create(model="demo", input=QUESTION, temperature=0, stream=True))
        assert events[0].type == "response.created"
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == ANSWER
        assert events[-1].type == "response.completed"
        assert events[-1].response.output_text == ANSWER

    def test_gathered_by_the_client(self, client: openai.OpenAI) -> None:
        with client.responses.stream(model="demo", input=QUESTION, temperature=0) as stream:
            kinds = [event.type for event in stream]
            assert stream.get_final_response().output_text == ANSWER
        assert kinds.count("response.output_text.delta") > 5

    def test_a_value_of_a_type_whole_and_streamed(self, client: openai.OpenAI) -> None:
        asked: Any = {"model": "demo", "input": QUESTION, "temperature": 0, "max_output_tokens": 60}
        assert client.responses.parse(**asked, text_format=Sum).output_parsed == Sum(answer=4)
        with client.responses.stream(**asked, text_format=Sum) as stream:
            assert stream.get_final_response().output_parsed == Sum(answer=4)

    def test_a_function_is_called_whole_and_streamed(self, client: openai.OpenAI) -> None:
        asked: Any = {"model": "demo", "input": QUESTION, "tools": [RESPONSE_TOOL], "tool_choice": "required"}
        whole: Any = client.responses.create(**asked, temperature=0, max_output_tokens=60)
        assert [(one.name, one.arguments) for one in whole.output] == [("add", '{"a": 2, "b": 2}')]
        with client.responses.stream(**asked, temperature=0, max_output_tokens=60) as stream:
            streamed: Any = stream.get_final_response()
        assert streamed.output[0].parsed_arguments == {"a": 2, "b": 2}

    def test_tokens_are_counted(self, client: openai.OpenAI) -> None:
        assert client.responses.input_tokens.count(model="demo", input="hello").input_tokens > 1


class TestValues:
    def test_a_schema_is_held_to(self, client: openai.OpenAI) -> None:
        wanted: Any = {"name": "sum", "strict": True, "schema": Sum.model_json_schema()}
        answer = client.chat.completions.create(
            model="demo",
            messages=MESSAGES,
            response_format={"type": "json_schema", "json_schema": wanted},
            temperature=0,
            max_tokens=60,
        )
        assert Sum.model_validate_json(answer.choices[0].message.content or "") == Sum(answer=4)

    def test_a_value_that_does_not_hold_is_no_answer_with_probabilities_either(self, client: openai.OpenAI) -> None:
        # llama-server's grammar leaves out of account what a number is to be a multiple of.
        schema = {**Sum.model_json_schema(), "properties": {"answer": {"type": "integer", "multipleOf": 997}}}
        wanted: Any = {"type": "json_schema", "json_schema": {"name": "sum", "schema": schema}}
        asked: Any = {"model": "demo", "messages": MESSAGES, "response_format": wanted, "temperature": 0}
        for told in (False, True):
            with pytest.raises(openai.InternalServerError, match="schema") as caught:
                client.chat.completions.create(**asked, logprobs=told, max_tokens=60)
            assert caught.value.status_code == 502

    def test_the_client_makes_a_value_of_it(self, client: openai.OpenAI) -> None:
        asked: Any = {"model": "demo", "messages": MESSAGES, "temperature": 0, "max_tokens": 60}
        whole = client.chat.completions.parse(**asked, response_format=Sum)
        assert whole.choices[0].message.parsed == Sum(answer=4)
        with client.chat.completions.stream(**asked, response_format=Sum) as stream:
            assert stream.get_final_completion().choices[0].message.parsed == Sum(answer=4)


class TestModels:
    def test_they_are_listed_and_found_by_name(self, client: openai.OpenAI) -> None:
        assert [model.id for model in client.models.list()] == ["demo"]
        assert client.models.retrieve("demo").owned_by == "llcuda"
        with pytest.raises(openai.NotFoundError, match="there is no model 'org/x'"):
            client.models.retrieve("org/x")


class TestErrors:
    def test_each_status_is_the_clients_own_exception(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.AuthenticationError, match="not one of"):
            client.with_options(api_key="wrong").models.list()
        with pytest.raises(openai.NotFoundError, match="there is demo") as missing:
            client.chat.completions.create(model="gpt-5", messages=MESSAGES)
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError, match="temperature") as bad:
            client.chat.completions.create(model="demo", messages=MESSAGES, temperature=-1)
        assert (bad.value.param, bad.value.code) == ("temperature", "invalid_value")
        with pytest.raises(openai.BadRequestError, match="there is no field 'temprature' here; did you mean"):
            client.chat.completions.create(model="demo", messages=MESSAGES, extra_body={"temprature": 1})
        with pytest.raises(openai.InternalServerError, match="embeddings"):
            client.embeddings.create(model="demo", input="x")

    def test_a_time_out_of_the_client_frees_the_slot(self, client: openai.OpenAI, running: Gateway) -> None:
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.1).chat.completions.create(model="demo", messages=MESSAGES, **LONG)
        wait_until(lambda: not is_busy(running))

    def test_too_many_requests_are_repeated_as_the_gateway_says(self) -> None:
        with gateway(workers=1, max_in_flight=1) as running:
            options: Any = {"base_url": f"{running.url}/v1", "api_key": KEY}
            with openai.OpenAI(**options, max_retries=0) as once, openai.OpenAI(**options, max_retries=2) as again:
                busy = once.chat.completions.create(model="demo", messages=MESSAGES, stream=True, **LONG)
                next(busy)
                with pytest.raises(openai.RateLimitError) as refused:
                    once.chat.completions.create(model="demo", messages=MESSAGES)
                assert refused.value.response.headers["retry-after"] == "1"
                timer = threading.Timer(0.3, busy.close)
                timer.start()
                began = time.monotonic()
                assert again.chat.completions.create(model="demo", messages=MESSAGES, temperature=0).choices
                assert time.monotonic() - began >= 1
                timer.join()


class TestStreamsAreLeft:
    def test_a_stream_that_is_closed_frees_its_slot(self, client: openai.OpenAI, running: Gateway) -> None:
        stream = client.chat.completions.create(model="demo", messages=MESSAGES, stream=True, **LONG)
        next(stream)
        assert is_busy(running)
        stream.close()
        wait_until(lambda: not is_busy(running))


class TestAsyncio:
    def test_many_at_a_time_and_a_stream(self, running: Gateway) -> None:
        async def main() -> None:
            async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key=KEY, max_retries=0) as client:
                asked: Any = {"model": "demo", "messages": MESSAGES, "temperature": 0}
                answers = await asyncio.gather(*(client.chat.completions.create(**asked) for _ in range(8)))
                assert {answer.choices[0].message.content for answer in answers} == {ANSWER}
                stream = await client.chat.completions.create(**asked, stream=True)
                pieces = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
                assert "".join(pieces) == ANSWER

        asyncio.run(main())

    def test_a_task_that_is_cancelled_frees_its_slot(self, running: Gateway) -> None:
        async def main() -> None:
            async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key=KEY, max_retries=0) as client:
                task = asyncio.ensure_future(
                    client.chat.completions.create(model="demo", messages=MESSAGES, **LONG)
                )
                await asyncio.to_thread(wait_until, lambda: is_busy(running))
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await asyncio.to_thread(wait_until, lambda: not is_busy(running))

        asyncio.run(main())


class TestEmbeddings:
    def test_the_clients_own_encoding_and_plain_numbers_are_the_same(self) -> None:
        with (
            gateway(workers=1, embeddings=True) as running,
            openai.OpenAI(base_url=f"{running.url}/v1", api_key=KEY, max_retries=0) as client,
        ):
            # Left to itself, the client asks for base64.
            first, second = client.embeddings.create(model="demo", input=["Rome", "Paris"]).data
            plain = client.embeddings.create(model="demo", input=["Rome", "Paris"], encoding_format="float").data
            assert first.embedding == pytest.approx(plain[0].embedding, abs=1e-6)
            assert second.embedding == pytest.approx(plain[1].embedding, abs=1e-6)
            assert sum(number * number for number in first.embedding) == pytest.approx(1, abs=1e-4)
            assert first.embedding != pytest.approx(second.embedding, abs=1e-3)
            tokens = client.embeddings.create(model="demo", input=[[1, 2, 3], [4, 5]])
            assert [one.index for one in tokens.data] == [0, 1]
            assert tokens.usage.prompt_tokens == 5
