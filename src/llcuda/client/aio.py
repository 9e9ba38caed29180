"""The client for asyncio: the twin of ``sync``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from llcuda.client import requests
from llcuda.client.aio_streams import AsyncTextStream
from llcuda.client.settings import build_address, choose_concurrency, choose_timeout, user_agent
from llcuda.errors import ConnectionFailedError, RequestTimeoutError, ResponseError
from llcuda.transport import Deadline
from llcuda.transport.aio import AsyncTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from llcuda.client.results import InferResult, RerankResult
    from llcuda.options import SamplingOptions

__all__ = ["AsyncInferenceClient"]

T = TypeVar("T")


class AsyncInferenceClient:
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
    ) -> None:
        """Remember where the server is; nothing is opened before the first request.

        ``url`` takes the place of ``host`` and ``port`` and can have ``https`` and a base path. ``timeout`` is in
        seconds, for each request as a whole, and each method that generates can be given another.
        """
        self._address = build_address(host, port, url=url)
        self.api_key = api_key
        self._timeout = choose_timeout(timeout, default=600.0)
        self._transport = AsyncTransport(self._address, api_key=api_key, user_agent=user_agent())

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

    async def embed(self, texts: str | Sequence[str]) -> list[list[float]]:
        """Return a vector for each text, in their order; for a single string, a list with one vector."""
        return await self._call(requests.embed(texts))

    async def rerank(self, query: str, documents: Sequence[str], *, top_n: int | None = None) -> list[RerankResult]:
        """Return how well each document answers the query, the best first."""
        return await self._call(requests.rerank(query, documents, top_n=top_n))

    async def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        """Return the tokens of a text; ``add_special`` puts those before it that a prompt begins with."""
        return await self._call(requests.tokenize(text, add_special=add_special, parse_special=parse_special))

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        return await self._call(requests.detokenize(tokens))

    async def apply_template(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Return the prompt that the model's chat template makes of messages."""
        return await self._call(requests.apply_template(messages))

    async def health(self) -> dict[str, Any]:
        """Return ``{"status": "ok"}``, or raise: ResponseError with status 503 while the model is being loaded."""
        return await self._call(requests.health())

    async def is_healthy(self) -> bool:
        """Return whether the server can answer now: false where nobody listens, and while the model is loaded."""
        try:
            return (await self.health()).get("status") == "ok"
        except (ConnectionFailedError, RequestTimeoutError, ResponseError):
            return False

    async def props(self) -> dict[str, Any]:
        """Return llama-server's properties: the model, its chat template, the number of slots, defaults."""
        return await self._call(requests.props())

    async def models(self) -> list[dict[str, Any]]:
        """Return the models that are served."""
        return await self._call(requests.models())

    async def slots(self) -> list[dict[str, Any]]:
        """Return what each slot is doing."""
        return await self._call(requests.slots())

    async def metrics(self) -> dict[str, float]:
        """Return llama-server's own counters by their Prometheus names; it has to be started with ``metrics=True``."""
        return await self._call(requests.metrics())

    async def lora_adapters(self) -> list[dict[str, Any]]:
        """Return the LoRA adapters that are loaded, with their scales."""
        return await self._call(requests.lora_adapters())

    async def set_lora_adapters(self, scales: Mapping[int, float]) -> None:
        """Set the scales of the LoRA adapters by their ids; 0 switches one off."""
        await self._call(requests.set_lora_adapters(scales))

    async def save_slot(self, slot: int, filename: str) -> dict[str, Any]:
        """Save a slot's cache to a file in the server's ``slot_save_path``."""
        return await self._call(requests.slot_action(slot, "save", filename=filename))

    async def restore_slot(self, slot: int, filename: str) -> dict[str, Any]:
        """Restore a slot's cache from a file in the server's ``slot_save_path``."""
        return await self._call(requests.slot_action(slot, "restore", filename=filename))

    async def erase_slot(self, slot: int) -> dict[str, Any]:
        """Erase a slot's cache."""
        return await self._call(requests.slot_action(slot, "erase", filename=None))

    async def close(self) -> None:
        """Close the connections that are kept. A later request opens a new one."""
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
        exchange = await self._transport.exchange(
            call.method, call.target, body=call.body, deadline=Deadline(self._timeout)
        )
        return call.read(exchange.status, await exchange.read_all())

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
        return AsyncTextStream(self._transport, generation, timeout=timeout, on_result=on_result)

    async def _count_slots(self) -> int:
        return int((await self.props()).get("total_slots", 1))
