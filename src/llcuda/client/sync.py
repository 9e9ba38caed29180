"""The blocking client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from llcuda.client import requests
from llcuda.client.endpoints import Endpoints
from llcuda.client.settings import BaseClient, choose_concurrency, choose_timeout
from llcuda.client.streams import TextStream
from llcuda.transport.exchange import run
from llcuda.transport.sync import Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from llcuda.client.results import InferResult
    from llcuda.options import SamplingOptions
    from llcuda.transport.exchange import BaseTransport
    from llcuda.transport.handle import Handle

__all__ = ["InferenceClient"]

T = TypeVar("T")


class InferenceClient(BaseClient, Endpoints):
    """Ask a running llama-server, or anything that speaks its API.

    One client can be used from several threads: each request in flight has a connection of its own, which is kept for
    the next one. No request goes through a proxy. Every method raises ConnectionFailedError if nobody answers,
    RequestTimeoutError after its time-out, ResponseError for an error that the server reports, and UsageError for
    arguments that cannot be used, before anything is sent.
    """

    _make_transport: ClassVar[type[BaseTransport]] = Transport

    def infer(
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
        return self._generate(asked, timeout)

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
    ) -> TextStream:
        """Answer a prompt piece by piece; see ``infer``. ``on_result`` is given the result at the end."""
        asked = requests.infer(prompt, system=system, raw=raw, schema=schema, options=options)
        return self._stream(asked, timeout, on_result=on_result)

    def batch_infer(
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
        from llcuda.client.batch import run_all  # noqa: PLC0415 - concurrent.futures costs 20 ms

        slots = None if max_concurrency is not None or len(asked) == 1 else int(self.props().get("total_slots", 1))
        workers = choose_concurrency(max_concurrency, slots=slots, count=len(asked))

        def start(generation: requests.Generation, on_begin: Callable[[Handle], object]) -> TextStream:
            return self._stream(generation, timeout, on_begin=on_begin)

        return run_all(start, asked, workers=workers)

    def chat(
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
        return self._generate(asked, timeout)

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
    ) -> TextStream:
        """Return the next message of a conversation piece by piece; see ``chat``."""
        asked = requests.chat(messages, tools=tools, tool_choice=tool_choice, schema=schema, options=options)
        return self._stream(asked, timeout, on_result=on_result)

    def complete(
        self,
        prompt: str | Sequence[int],
        *,
        schema: object = None,
        timeout: float | None = None,
        **options: Unpack[SamplingOptions],
    ) -> InferResult:
        """Continue a text, or tokens, with no chat template around it."""
        return self._generate(requests.complete(prompt, schema=schema, options=options), timeout)

    def stream_complete(
        self,
        prompt: str | Sequence[int],
        *,
        schema: object = None,
        timeout: float | None = None,
        on_result: Callable[[InferResult], object] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> TextStream:
        """Continue a text piece by piece; see ``complete``."""
        asked = requests.complete(prompt, schema=schema, options=options)
        return self._stream(asked, timeout, on_result=on_result)

    def infill(
        self,
        prefix: str,
        suffix: str,
        *,
        prompt: str = "",
        timeout: float | None = None,
        **options: Unpack[SamplingOptions],
    ) -> InferResult:
        """Write what stands between two pieces of code, for models that were trained to; ``prompt`` is its start."""
        return self._generate(requests.infill(prefix, suffix, prompt=prompt, options=options), timeout)

    def close(self) -> None:
        """End the requests under way, from any thread, and close all connections. A later request opens a new one.

        What waits for an answer, or for its next attempt, gets ConnectionFailedError.
        """
        self._transport.close()

    def __enter__(self) -> Self:
        """Return the client, to be closed at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _call(self, call: requests.Call[T]) -> T:
        return run(self._send(call))

    def _generate(self, generation: requests.Generation, timeout: float | None) -> InferResult:
        return self._stream(generation, timeout).read_all()

    def _stream(
        self,
        generation: requests.Generation,
        timeout: float | None,
        *,
        on_result: Callable[[InferResult], object] | None = None,
        on_begin: Callable[[Handle], object] | None = None,
    ) -> TextStream:
        timeout = choose_timeout(timeout, default=self._timeout)
        return TextStream(self._sender, generation, timeout=timeout, on_result=on_result, on_begin=on_begin)
