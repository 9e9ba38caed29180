"""Both clients are sent away, come back, and are closed while they wait."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from llcuda.client import AsyncInferenceClient, InferenceClient
from llcuda.errors import ConnectionFailedError, ResponseError
from llcuda.gateway import GatewayConfig, Limits, ModelConfig
from llcuda.gateway.gateway import Gateway
from tests.process.client.twins import CLIENTS
from tests.process.gateway.clients.gateways import leave_when_refused
from tests.processes import wait_until
from tests.standins.stub_server import STREAM_HEAD, WAIT, StubServer, answer, chat, delta, event

if TYPE_CHECKING:
    from collections.abc import Callable

LOADING = answer({"error": {"code": 503, "message": "Loading model"}}, status=503)
LATER = answer({"error": {"message": "full"}}, status=429, headers="Retry-After: 3600\r\n")


@pytest.mark.parametrize("kind", sorted(CLIENTS))
def test_a_full_queue_is_come_back_to(kind: str) -> None:
    config = GatewayConfig(models=(ModelConfig("demo", "demo", slots=1),), port=0, limits=Limits(max_queued=0))
    with Gateway(config) as gateway, CLIENTS[kind](url=gateway.url) as client:
        other = InferenceClient(url=gateway.url)
        busy = other.stream_complete("What is 2+2?", max_tokens=900, ignore_eos=True, n_probs=100)
        next(busy)
        with CLIENTS[kind](url=gateway.url, max_retries=0) as once, pytest.raises(ResponseError) as refused:
            once.infer("What is 2+2?")
        assert refused.value.status == 429
        assert refused.value.retry_after is not None
        assert "Try again in" in refused.value.hint
        leaving = leave_when_refused(gateway, busy.close)
        assert client.infer("What is 2+2?", temperature=0).text == "2 + 2 = 4."
        leaving.join()
        other.close()


@pytest.mark.parametrize("kind", sorted(CLIENTS))
def test_a_model_that_is_being_loaded_is_waited_for(kind: str) -> None:
    with StubServer(LOADING, LOADING, chat("a")) as stub, CLIENTS[kind](url=stub.url) as client:
        assert client.infer("x").text == "a"
        assert len(stub.requests) == 3


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.infer("x"),
        lambda client: client.health(),
        lambda client: list(client.infer_stream("x")),
    ],
)
def test_closing_ends_what_waits_and_the_client_goes_on(ask: Callable[[Any], Any]) -> None:
    with StubServer([STREAM_HEAD, event(delta(content="a")), WAIT], chat("b")) as stub:
        client = InferenceClient(url=stub.url)

        def close() -> None:
            wait_until(lambda: stub.requests)
            client.close()

        closer = threading.Thread(target=close)
        closer.start()
        with pytest.raises(ConnectionFailedError, match="was closed"):
            ask(client)
        closer.join()
        with client:
            assert client.infer("x").text == "b"


def test_closing_ends_the_wait_before_the_next_attempt() -> None:
    with StubServer(LATER) as stub, InferenceClient(url=stub.url, timeout=7200) as client:
        closer = threading.Timer(0.3, client.close)
        closer.start()
        with pytest.raises(ConnectionFailedError, match="was closed"):
            client.infer("x")
        closer.join()


def test_closing_ends_what_other_tasks_wait_for() -> None:
    async def main(stub: StubServer, *, requests: int) -> None:
        client = AsyncInferenceClient(url=stub.url, timeout=7200)
        task = asyncio.ensure_future(client.infer("x"))
        await asyncio.to_thread(wait_until, lambda: len(stub.requests) == requests)
        await asyncio.sleep(0.1)
        await client.close()
        with pytest.raises(ConnectionFailedError, match="was closed"):
            await task
        async with client:
            assert (await client.infer("x")).text == "b"

    for first in ([STREAM_HEAD, event(delta(content="a")), WAIT], LATER):
        with StubServer(first, chat("b")) as stub:
            asyncio.run(main(stub, requests=1))
