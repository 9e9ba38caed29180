"""A gateway in front of a model that ranks texts, asked by our clients and by curl's kind of request."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest

import llcuda
from tests.made_models.tiny_reranker import write_tiny_reranker
from tests.process.gateway.clients.gateways import KEY, gateway

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llcuda.gateway.gateway import Gateway

QUERY = "where do red pandas live"
DOCUMENTS = ["trains run on rails", "red pandas live in mountain forests", "pandas eat bamboo"]
WORDS = sorted({word for text in (QUERY, *DOCUMENTS) for word in text.split()})


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    model = write_tiny_reranker(tmp_path_factory.mktemp("models") / "reranker.gguf", WORDS)
    with gateway(model=str(model), reranking=True) as running:
        yield running


@pytest.fixture(scope="module")
def http(running: Gateway) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=running.url, headers=headers, trust_env=False) as http:
        yield http


@pytest.mark.parametrize("path", ["/v1/rerank", "/v1/reranking", "/rerank", "/reranking"])
def test_the_document_that_fits_comes_first(http: httpx.Client, path: str) -> None:
    answer = http.post(path, json={"model": "demo", "query": QUERY, "documents": DOCUMENTS})
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [result["index"] for result in results] == [1, 2, 0]
    scores = [result["relevance_score"] for result in results]
    assert scores == sorted(scores, reverse=True)
    assert answer.json()["usage"]["prompt_tokens"] > len(DOCUMENTS)


def test_only_so_many_are_returned_and_texts_on_demand(http: httpx.Client) -> None:
    asked: dict[str, Any] = {"query": QUERY, "documents": DOCUMENTS, "top_n": 1}
    assert [result["index"] for result in http.post("/v1/rerank", json=asked).json()["results"]] == [1]
    results = http.post("/v1/rerank", json={**asked, "return_documents": True}).json()["results"]
    assert results[0]["document"] == {"text": DOCUMENTS[1]}
    texts = http.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS, "return_text": True}).json()
    assert texts[0]["text"] == DOCUMENTS[1]


def test_what_cannot_be_ranked_is_refused(http: httpx.Client) -> None:
    for body in ({"documents": DOCUMENTS}, {"query": QUERY, "documents": []}, {"query": QUERY, "documents": [1]}):
        assert http.post("/v1/rerank", json=body).status_code == 400
    assert http.post("/v1/rerank", json={"query": QUERY}).status_code == 400


def test_our_clients_rank(running: Gateway) -> None:
    with llcuda.InferenceClient(url=running.url, api_key=KEY) as client:
        ranks = client.rerank(QUERY, DOCUMENTS, top_n=2)
    assert [(rank.index, rank.document) for rank in ranks] == [(1, DOCUMENTS[1]), (2, DOCUMENTS[2])]

    async def main() -> None:
        async with llcuda.AsyncInferenceClient(url=running.url, api_key=KEY) as client:
            assert await client.rerank(QUERY, DOCUMENTS, top_n=2) == ranks

    asyncio.run(main())
