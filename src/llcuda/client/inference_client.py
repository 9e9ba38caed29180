"""The blocking client, and what a server can be asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from llcuda.client import requests
from llcuda.client.base_client import BaseClient, choose_concurrency, choose_timeout
from llcuda.client.streams import TextStream
from llcuda.errors import ConnectionFailedError, RequestTimeoutError, ResponseError
from llcuda.transport.base_transport import run
from llcuda.transport.sync import Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from llcuda.client.results import InferResult, RerankResult
    from llcuda.options import SamplingOptions
    from llcuda.transport.base_transport import BaseTransport, Handle

T = TypeVar("T")


class InferenceClient(BaseClient):
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

    def embed(self, texts: str | Sequence[str]) -> list[list[float]]:
        """Return a vector for each text, in their order; for a single string, a list with one vector."""
        return self._call(requests.embed(texts))

    def rerank(self, query: str, documents: Sequence[str], *, top_n: int | None = None) -> list[RerankResult]:
        """Return how well each document answers the query, the best first."""
        return self._call(requests.rerank(query, documents, top_n=top_n))

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        """Return the tokens of a text; ``add_special`` puts those before it that a prompt begins with."""
        payload = {"content": text, "add_special": add_special, "parse_special": parse_special}
        return self._call(
            requests.post("/tokenize", payload, lambda answer: [int(token) for token in answer["tokens"]])
        )

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        payload = {"tokens": requests.check_prompt(tokens)}
        return self._call(requests.post("/detokenize", payload, lambda answer: str(answer["content"])))

    def apply_template(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Return the prompt that the model's chat template makes of messages."""
        payload = {"messages": requests.check_messages(messages)}
        return self._call(requests.post("/apply-template", payload, lambda answer: str(answer["prompt"])))

    def health(self) -> dict[str, Any]:
        """Return ``{"status": "ok"}``, or raise: ResponseError with status 503 while the model is being loaded."""
        return self._call(requests.get("/health", dict, repeats=False))

    def is_healthy(self) -> bool:
        """Return whether the server can answer now: false if nobody listens, and while the model is loaded."""
        try:
            return self.health().get("status") == "ok"
        except (ConnectionFailedError, RequestTimeoutError, ResponseError):
            return False

    def props(self) -> dict[str, Any]:
        """Return llama-server's properties: the model, its chat template, the number of slots, defaults."""
        return self._call(requests.get("/props", dict))

    def models(self) -> list[dict[str, Any]]:
        """Return the models that are served."""
        return self._call(requests.get("/v1/models", lambda answer: _list_mappings(answer["data"])))

    def slots(self) -> list[dict[str, Any]]:
        """Return what each slot is doing."""
        return self._call(requests.get("/slots", _list_mappings))

    def metrics(self) -> dict[str, float]:
        """Return llama-server's own counters by their Prometheus names; it has to be started with ``metrics=True``."""
        return self._call(requests.Call("GET", "/metrics", None, lambda body: requests.parse_metrics(body.decode())))

    def lora_adapters(self) -> list[dict[str, Any]]:
        """Return the LoRA adapters that are loaded, with their scales."""
        return self._call(requests.get("/lora-adapters", _list_mappings))

    def set_lora_adapters(self, scales: Mapping[int, float]) -> None:
        """Set the scales of the LoRA adapters by their ids; 0 switches one off."""
        return self._call(requests.set_lora_adapters(scales))

    def save_slot(self, slot: int, filename: str) -> dict[str, Any]:
        """Save a slot's cache to a file in the server's ``slot_save_path``."""
        return self._call(requests.slot_action(slot, "save", {"filename": filename}))

    def restore_slot(self, slot: int, filename: str) -> dict[str, Any]:
        """Restore a slot's cache from a file in the server's ``slot_save_path``."""
        return self._call(requests.slot_action(slot, "restore", {"filename": filename}))

    def erase_slot(self, slot: int) -> dict[str, Any]:
        """Erase a slot's cache."""
        return self._call(requests.slot_action(slot, "erase", {}))

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


def _list_mappings(answer: Any) -> list[dict[str, Any]]:
    return [dict(one) for one in answer]
