"""The client for asyncio: the twin of ``sync``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from llcuda.client import requests
from llcuda.client.aio_endpoints import AsyncEndpoints
from llcuda.client.aio_sending import AsyncSender
from llcuda.client.aio_streams import AsyncTextStream
from llcuda.client.settings import build_address, choose_concurrency, choose_retries, choose_timeout, user_agent
from llcuda.transport import Deadline
from llcuda.transport.aio import AsyncTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from llcuda.client.results import InferResult
    from llcuda.options import SamplingOptions

__all__ = ["AsyncInferenceClient"]

T = TypeVar("T")


class AsyncInferenceClient(AsyncEndpoints):
    """Ask a running llama-server, or anything that speaks its API, without blocking the event loop.

    The methods are those of ``InferenceClient``, as coroutines; a stream is iterated over with ``async for``.
    Cancelling a task cuts the connection that it waits for, so the server stops generating. A client belongs to one
    event loop at a time; close it there, or use ``async with``.
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int = 8090,
        *,
        api_key: str | None = None,
        url: str | None = None,
        timeout: float = 600.0,
        max_retries: int = 2,
    ) -> None:
        """Remember where the server is; nothing is opened before the first request.

        ``url`` takes the place of ``host`` and ``port`` and can have ``https`` and a base path. ``timeout`` is in
        seconds, for each request as a whole, and each method that generates can be given another.
        A request that is sent away with 429 or 503, or refused because nobody listens, is sent again up to
        ``max_retries`` times within that time; ``health`` never is.
        """
        self._address = build_address(host, port, url=url)
        self.api_key = api_key
        self._timeout = choose_timeout(timeout, default=600.0)
        self._transport = AsyncTransport(self._address, api_key=api_key, user_agent=user_agent())
        self._sender = AsyncSender(self._transport, choose_retries(max_retries))

    @property
    def url(self) -> str:
        """Return the server's address."""
        return self._address.url

    async def infer(
        self,
        prompt: str,
        *,
        system: str | None = None,
        schema: object = None,
        raw: bool = False,
        timeout: float | None = None,
        **options: Unpack[SamplingOptions],
    ) -> InferResult:
        """Answer a prompt.

        It goes through the model's own chat template, after the ``system`` message if there is one; with ``raw`` it is
        continued as it stands. ``schema`` is a JSON schema or a Python type: the result's ``value`` then holds to it,
        or SchemaMismatchError is raised.
        """
        asked = requests.infer(prompt, system=system, raw=raw, schema=schema, options=options)
        return await self._generate(asked, timeout)

    def infer_stream(
        self,
        prompt: str,
        *,
        system: str | None = None,
        schema: object = None,
        raw: bool = False,
        timeout: float | None = None,
        on_result: Callable[[InferResult], object] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> AsyncTextStream:
        """Answer a prompt piece by piece; see ``infer``. ``on_result`` is given the result at the end."""
        asked = requests.infer(prompt, system=system, raw=raw, schema=schema, options=options)
        return self._stream(asked, timeout, on_result=on_result)

    async def batch_infer(
        self,
        prompts: Sequence[str],
        *,
        max_concurrency: int | None = None,
        system: str | None = None,
        schema: object = None,
        raw: bool = False,
        timeout: float | None = None,
        **options: Unpack[SamplingOptions],
    ) -> list[InferResult]:
        """Answer several prompts, as many at a time as the server has slots, and return the results in their order.

        ``timeout`` is for each prompt. The first failure ends the others and is raised.
        """
        asked = [requests.infer(prompt, system=system, raw=raw, schema=schema, options=options) for prompt in prompts]
        if not asked:
            return []
        slots = None if max_concurrency is not None or len(asked) == 1 else await self._count_slots()
        workers = asyncio.Semaphore(choose_concurrency(max_concurrency, slots=slots, count=len(asked)))

        async def run(generation: requests.Generation) -> InferResult:
            async with workers:
                return await self._generate(generation, timeout)

        tasks = [asyncio.ensure_future(run(generation)) for generation in asked]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] | None = None,
        schema: object = None,
        timeout: float | None = None,
        **options: Unpack[SamplingOptions],
    ) -> InferResult:
        """Return the next message of a conversation.

        ``messages`` and ``tools`` are as in OpenAI's API; the result's ``message`` can be appended to them. Calls of
        tools are in ``tool_calls``, their arguments parsed; arguments that are not a JSON object raise
        SchemaMismatchError.
        """
        asked = requests.chat(messages, tools=tools, tool_choice=tool_choice, schema=schema, options=options)
        return await self._generate(asked, timeout)

    def stream_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] | None = None,
        schema: object = None,
        timeout: float | None = None,
        on_result: Callable[[InferResult], object] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> AsyncTextStream:
        """Return the next message of a conversation piece by piece; see ``chat``."""
        asked = requests.chat(messages, tools=tools, tool_choice=tool_choice, schema=schema, options=options)
        return self._stream(asked, timeout, on_result=on_result)

    async def complete(
        self,
        prompt: str | Sequence[int],
        *,
        schema: object = None,
        timeout: float | None = None,
        **options: Unpack[SamplingOptions],
    ) -> InferResult:
        """Continue a text, or tokens, with no chat template around it."""
        return await self._generate(requests.complete(prompt, schema=schema, options=options), timeout)

    def stream_complete(
        self,
        prompt: str | Sequence[int],
        *,
        schema: object = None,
        timeout: float | None = None,
        on_result: Callable[[InferResult], object] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> AsyncTextStream:
        """Continue a text piece by piece; see ``complete``."""
        asked = requests.complete(prompt, schema=schema, options=options)
        return self._stream(asked, timeout, on_result=on_result)

    async def infill(
        self,
        prefix: str,
        suffix: str,
        *,
        prompt: str = "",
        timeout: float | None = None,
        **options: Unpack[SamplingOptions],
    ) -> InferResult:
        """Write what stands between two pieces of code, for models that were trained to; ``prompt`` is its start."""
        return await self._generate(requests.infill(prefix, suffix, prompt=prompt, options=options), timeout)

    async def close(self) -> None:
        """End the requests under way, from any task, and close all connections. A later request opens a new one.

        What waits for an answer gets ConnectionFailedError.
        """
        self._transport.close()
        await asyncio.sleep(0)  # asyncio closes the sockets in the loop's next round

    async def __aenter__(self) -> Self:
        """Return the client, to be closed at the end of the block."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.close()

    async def _call(self, call: requests.Call[T]) -> T:
        exchange = await self._sender.send(
            call.method, call.target, body=call.body, deadline=Deadline(self._timeout), repeats=call.repeats
        )
        return call.read(exchange.status, await exchange.read_all(), headers=exchange.headers)

    async def _generate(self, generation: requests.Generation, timeout: float | None) -> InferResult:
        return await self._stream(generation, timeout).read_all()

    def _stream(
        self,
        generation: requests.Generation,
        timeout: float | None,
        *,
        on_result: Callable[[InferResult], object] | None = None,
    ) -> AsyncTextStream:
        timeout = choose_timeout(timeout, default=self._timeout)
        return AsyncTextStream(self._sender, generation, timeout=timeout, on_result=on_result)
