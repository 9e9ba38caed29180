"""LangChain asks a gateway through its package for OpenAI."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pydantic
import pytest
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

from tests.process.gateway.clients.gateways import ANSWER, KEY, QUESTION, gateway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from llcuda.gateway.gateway import Gateway


class Sum(pydantic.BaseModel):
    """The answer to a sum."""

    answer: int


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@pytest.fixture(scope="module")
def connect(running: Gateway) -> Iterator[Callable[..., Any]]:
    """Make any of LangChain's models; they leave it to us to close their connections."""
    with httpx.Client() as http:

        def make(kind: Any = ChatOpenAI, **options: Any) -> Any:
            common: Any = {"base_url": f"{running.url}/v1", "api_key": KEY, "model": "demo", "max_retries": 0}
            return kind(**common, http_client=http, temperature=0, **options)

        yield make


def test_a_question_is_answered_whole_streamed_and_in_a_batch(connect: Callable[..., Any]) -> None:
    model = connect()
    answer = model.invoke(QUESTION)
    assert (answer.content, answer.response_metadata["finish_reason"]) == (ANSWER, "stop")
    assert answer.usage_metadata["output_tokens"] > 5
    pieces = [piece.content for piece in model.stream(QUESTION)]
    assert "".join(pieces) == ANSWER
    assert len(pieces) > 5
    answers = model.batch([f"What is {number}+2?" for number in range(6)])
    assert [one.content for one in answers] == [f"{number} + 2 = {number + 2}." for number in range(6)]


def test_probabilities_are_told(connect: Callable[..., Any]) -> None:
    told = connect().bind(logprobs=True, top_logprobs=2).invoke(QUESTION).response_metadata["logprobs"]["content"]
    assert "".join(token["token"] for token in told) == ANSWER


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_an_answer_is_a_value_of_a_type(connect: Callable[..., Any], method: str) -> None:
    value = connect().with_structured_output(Sum, method=method).invoke(QUESTION)
    assert isinstance(value, Sum)


def test_a_tool_is_called_and_its_result_is_answered(connect: Callable[..., Any]) -> None:
    model = connect().bind_tools([add])
    asked = [SystemMessage("Be brief."), HumanMessage(QUESTION)]
    call = connect().bind_tools([add], tool_choice="any").invoke(asked)
    assert [(one["name"], one["args"]) for one in call.tool_calls] == [("add", {"a": 2, "b": 2})]
    result = ToolMessage("4", tool_call_id=call.tool_calls[0]["id"])
    assert "4" in model.invoke([*asked, call, result]).content
    strict = connect().bind_tools([add], strict=True, tool_choice="add").invoke(asked)
    assert strict.tool_calls[0]["name"] == "add"


def test_the_responses_api_is_spoken_over_several_turns(connect: Callable[..., Any]) -> None:
    model = connect(use_responses_api=True)
    first = model.invoke(QUESTION)
    assert first.text == ANSWER
    assert "".join(piece.text for piece in model.stream(QUESTION)) == ANSWER
    assert model.invoke([HumanMessage(QUESTION), first, HumanMessage("What is 3+3?")]).text


def test_a_prompt_is_continued(connect: Callable[..., Any]) -> None:
    assert connect(OpenAI, max_tokens=5).invoke(QUESTION)


def test_asyncio(running: Gateway) -> None:
    async def main() -> None:
        async with httpx.AsyncClient() as http:
            common: Any = {"base_url": f"{running.url}/v1", "api_key": KEY, "model": "demo", "max_retries": 0}
            model = ChatOpenAI(**common, http_async_client=http, temperature=0)
            assert (await model.ainvoke(QUESTION)).content == ANSWER
            assert "".join([str(piece.content) async for piece in model.astream(QUESTION)]) == ANSWER
            assert len(await model.abatch([QUESTION] * 4)) == 4

    asyncio.run(main())


def test_texts_are_embedded() -> None:
    with gateway(workers=1, embeddings=True) as running, httpx.Client() as http:
        common: Any = {"base_url": f"{running.url}/v1", "api_key": KEY, "model": "demo", "max_retries": 0}
        # Without this it sends tokens of OpenAI's vocabulary.
        embeddings = OpenAIEmbeddings(**common, http_client=http, check_embedding_ctx_length=False)
        first, second = embeddings.embed_documents(["Rome", "Paris"])
        assert len(first) == len(second) > 100
        assert embeddings.embed_query("Rome") == pytest.approx(first, abs=1e-6)
