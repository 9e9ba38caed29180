"""OpenAI's own client asks a gateway for texts and vectors, and which models there are."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.process.gateway.clients.gateways import ANSWER, KEY, MESSAGES, QUESTION, gateway


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


class TestCompletions:
    def test_whole_and_streamed_with_probabilities(self, client: openai.OpenAI) -> None:
        asked: Any = {"model": "demo", "prompt": QUESTION, "max_tokens": 4, "temperature": 0, "logprobs": 2}
        whole = client.completions.create(**asked).choices[0]
        assert whole.finish_reason == "length"
        assert whole.logprobs is not None
        assert "".join(whole.logprobs.tokens or ()) == whole.text
        assert [len(top) for top in whole.logprobs.top_logprobs or ()] == [2] * 4
        chunks = list(client.completions.create(**asked, stream=True))
        assert "".join(chunk.choices[0].text for chunk in chunks) == whole.text

    def test_several_prompts(self, client: openai.OpenAI) -> None:
        answer = client.completions.create(model="demo", prompt=["a", "b", "c"], max_tokens=2)
        assert sorted(choice.index for choice in answer.choices) == [0, 1, 2]


class TestModels:
    def test_they_are_listed_and_found_by_name(self, client: openai.OpenAI) -> None:
        assert [model.id for model in client.models.list()] == ["demo"]
        assert client.models.retrieve("demo").owned_by == "llcuda"
        with pytest.raises(openai.NotFoundError, match="there is no model 'org/x'"):
            client.models.retrieve("org/x")


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
