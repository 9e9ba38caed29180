"""The client for asyncio: the blocking one's requests and answers, with asyncio's waiting."""

from __future__ import annotations

import asyncio
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from llcuda.client import requests
from llcuda.client.base_client import BaseClient, choose_concurrency, choose_timeout
from llcuda.client.inference_client import InferenceClient
from llcuda.client.streams import BaseStream
from llcuda.errors import ConnectionFailedError, RequestTimeoutError, ResponseError
from llcuda.transport.aio import AsyncTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
    from types import TracebackType
    from typing import Concatenate, ParamSpec

    from typing_extensions import Self, Unpack

    from llcuda.client.results import InferResult
    from llcuda.client.streams import TextStream
    from llcuda.options import SamplingOptions
    from llcuda.transport.base_transport import BaseTransport

    P = ParamSpec("P")

T = TypeVar("T")


def awaited(
    method: Callable[Concatenate[InferenceClient, P], T],
) -> Callable[Concatenate[AsyncInferenceClient, P], Coroutine[Any, Any, T]]:
    """Make a method of asyncio's client out of the blocking one's.

    That one builds a request and leaves the rest to ``self._call`` or ``self._generate``, which are coroutines here.
    """

    @wraps(method)
    async def ask(client: AsyncInferenceClient, /, *arguments: P.args, **options: P.kwargs) -> T:
        answer = method(cast("InferenceClient", client), *arguments, **options)
        return await cast("Coroutine[Any, Any, T]", answer)

    return ask


def streamed(
    method: Callable[Concatenate[InferenceClient, P], TextStream],
) -> Callable[Concatenate[AsyncInferenceClient, P], AsyncTextStream]:
    """Say of a method that streams what it returns here, by ``self._stream``."""
    return cast("Callable[Concatenate[AsyncInferenceClient, P], AsyncTextStream]", method)


class AsyncTextStream(BaseStream):
    """The pieces of a text, as soon as they are there: what ``TextStream`` is, to iterate over with ``async for``.

    The request is sent when that begins. Cancelling the task that waits for it closes the connection, too.
    """

    def __aiter__(self) -> AsyncIterator[str]:
        """Return the stream itself."""
        return self

    async def __anext__(self) -> str:
        """Wait for the next piece.

        Raises what ``TextStream`` raises, and what ``InferenceClient`` raises for a request that cannot be sent.
        """
        try:
            piece = await self._next_piece()
        except BaseException as error:
            self._fail(error)
            raise
        if not piece:
            raise StopAsyncIteration
        return piece

    async def read_all(self) -> InferResult:
        """Wait for the end and return the result. Raises what iterating raises."""
        return await self._read_all()

    async def close(self) -> None:
        """Stop: the server stops generating too. Does nothing after the end."""
        self._close()
        await asyncio.sleep(0)  # asyncio closes the socket in the loop's next round

    async def __aenter__(self) -> Self:
        """Return the stream, to be closed at the end of the block."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.close()


class AsyncInferenceClient(BaseClient):
    """Ask a running llama-server, or anything that speaks its API, without blocking the event loop.

    The methods are those of ``InferenceClient``, as coroutines. Cancelling a task cuts the connection that it waits
    for, so the server stops generating. A client belongs to one event loop at a time; close it there.
    """

    _make_transport: ClassVar[type[BaseTransport]] = AsyncTransport

    infer = awaited(InferenceClient.infer)
    infer_stream = streamed(InferenceClient.infer_stream)
    chat = awaited(InferenceClient.chat)
    stream_chat = streamed(InferenceClient.stream_chat)
    complete = awaited(InferenceClient.complete)
    stream_complete = streamed(InferenceClient.stream_complete)
    infill = awaited(InferenceClient.infill)
    embed = awaited(InferenceClient.embed)
    rerank = awaited(InferenceClient.rerank)
    tokenize = awaited(InferenceClient.tokenize)
    detokenize = awaited(InferenceClient.detokenize)
    apply_template = awaited(InferenceClient.apply_template)
    health = awaited(InferenceClient.health)
    props = awaited(InferenceClient.props)
    models = awaited(InferenceClient.models)
    slots = awaited(InferenceClient.slots)
    metrics = awaited(InferenceClient.metrics)
    lora_adapters = awaited(InferenceClient.lora_adapters)
    set_lora_adapters = awaited(InferenceClient.set_lora_adapters)
    save_slot = awaited(InferenceClient.save_slot)
    restore_slot = awaited(InferenceClient.restore_slot)
    erase_slot = awaited(InferenceClient.erase_slot)

    async def is_healthy(self) -> bool:
        """Return whether the server can answer now: false if nobody listens, and while the model is loaded."""
        try:
            return (await self.health()).get("status") == "ok"
        except (ConnectionFailedError, RequestTimeoutError, ResponseError):
            return False

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
        asked = [
            requests.infer(prompt, system=system, raw=raw, schema=schema, options=options)
            for prompt in requests.check_prompts(prompts)
        ]
        if not asked:
            return []
        slots = None
        if max_concurrency is None and len(asked) > 1:
            slots = int((await self.props()).get("total_slots", 1))
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
        return await self._send(call)

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
