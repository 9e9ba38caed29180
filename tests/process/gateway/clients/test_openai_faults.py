"""OpenAI's own client is refused, gives up, leaves, and asks for many things at a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import openai
import pytest

from tests.process.gateway.clients.gateways import ANSWER, KEY, MESSAGES, gateway, is_busy, leave_when_refused
from tests.processes import wait_until

if TYPE_CHECKING:
    from llcuda.gateway.gateway import Gateway

LONG: dict[str, Any] = {"max_tokens": 900, "extra_body": {"ignore_eos": True}}
LONGER: dict[str, Any] = {**LONG, "logprobs": True, "top_logprobs": 20}


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
        with pytest.raises(openai.BadRequestError, match="not served for embeddings"):
            client.embeddings.create(model="demo", input="x")

    def test_a_time_out_of_the_client_frees_the_slot(self, client: openai.OpenAI, running: Gateway) -> None:
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.1).chat.completions.create(model="demo", messages=MESSAGES, **LONGER)
        wait_until(lambda: not is_busy(running))

    def test_too_many_requests_are_repeated_as_the_gateway_says(self) -> None:
        with gateway(workers=1, max_in_flight=1) as running:
            options: Any = {"base_url": f"{running.url}/v1", "api_key": KEY}
            with openai.OpenAI(**options, max_retries=0) as once, openai.OpenAI(**options, max_retries=2) as again:
                busy = once.chat.completions.create(model="demo", messages=MESSAGES, stream=True, **LONGER)
                next(busy)
                with pytest.raises(openai.RateLimitError) as refused:
                    once.chat.completions.create(model="demo", messages=MESSAGES)
                assert refused.value.response.headers["retry-after"] == "1"
                leaving = leave_when_refused(running, busy.close)
                assert again.chat.completions.create(model="demo", messages=MESSAGES, temperature=0).choices
                leaving.join()


class TestStreamsAreLeft:
    def test_a_stream_that_is_closed_frees_its_slot(self, client: openai.OpenAI, running: Gateway) -> None:
        stream = client.chat.completions.create(model="demo", messages=MESSAGES, stream=True, **LONGER)
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
