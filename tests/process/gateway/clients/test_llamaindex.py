"""LlamaIndex asks a gateway through its packages for what is like OpenAI."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pydantic
import pytest
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding  # type: ignore[import-untyped]
from llama_index.llms.openai_like import OpenAILike  # type: ignore[import-untyped]

from tests.process.gateway.clients.gateways import ANSWER, KEY, QUESTION, gateway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from llcuda.gateway.gateway import Gateway

ASKED = [ChatMessage(role="user", content=QUESTION)]


class Sum(pydantic.BaseModel):
    """The answer to a sum."""

    answer: int


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@pytest.fixture(scope="module")
def connect(running: Gateway) -> Iterator[Callable[..., OpenAILike]]:
    with httpx.Client() as http:

        def make(**options: Any) -> OpenAILike:
            given: dict[str, Any] = {"is_chat_model": True, "is_function_calling_model": True, **options}
            return OpenAILike(
                model="demo",
                api_base=f"{running.url}/v1",
                api_key=KEY,
                http_client=http,
                context_window=2048,
                temperature=0,
                max_retries=0,
                **given,
            )

        yield make


def test_a_prompt_is_answered_whole_and_streamed(connect: Callable[..., OpenAILike]) -> None:
    model = connect()
    assert model.complete(QUESTION).text == ANSWER
    assert "".join(piece.delta or "" for piece in model.stream_complete(QUESTION)) == ANSWER


def test_a_conversation_is_answered_whole_and_streamed(connect: Callable[..., OpenAILike]) -> None:
    model = connect()
    first = model.chat(ASKED)
    assert first.message.content == ANSWER
    assert "".join(piece.delta or "" for piece in model.stream_chat(ASKED)) == ANSWER
    assert model.chat([*ASKED, first.message, *ASKED]).message.content


def test_a_prompt_is_continued_without_a_template(connect: Callable[..., OpenAILike]) -> None:
    model = connect(is_chat_model=False, is_function_calling_model=False, max_tokens=5)
    whole = model.complete(QUESTION).text
    assert whole
    assert "".join(piece.delta or "" for piece in model.stream_complete(QUESTION)) == whole


def test_an_answer_is_a_value_of_a_type(connect: Callable[..., OpenAILike]) -> None:
    assert isinstance(connect().as_structured_llm(Sum).complete(QUESTION).raw, Sum)


def test_a_tool_is_called(connect: Callable[..., OpenAILike]) -> None:
    model = connect()
    tool = FunctionTool.from_defaults(add)
    answer = model.chat_with_tools([tool], user_msg=QUESTION, tool_required=True)
    (call,) = model.get_tool_calls_from_response(answer)
    assert (call.tool_name, call.tool_kwargs) == ("add", {"a": 2, "b": 2})


def test_texts_are_embedded_blocking_and_with_asyncio() -> None:
    with gateway(workers=1, embeddings=True) as running, httpx.Client() as http:

        async def embed() -> None:
            async with httpx.AsyncClient() as other:
                options: Any = {"model_name": "demo", "api_base": f"{running.url}/v1", "api_key": KEY}
                model = OpenAILikeEmbedding(**options, http_client=http, async_http_client=other, max_retries=0)
                first, second = model.get_text_embedding_batch(["Rome", "Paris"])
                assert len(first) == len(second) > 100
                assert model.get_query_embedding("Rome") == pytest.approx(first, abs=1e-6)
                assert await model.aget_text_embedding("Rome") == pytest.approx(first, abs=1e-6)

        asyncio.run(embed())
