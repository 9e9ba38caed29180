"""A client of the gateway's binary protocol, with the results and errors of :class:`llcuda.InferenceClient`."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import grpc
from google.protobuf.message import Message

from llcuda.client.requests import check_prompts
from llcuda.client.results import InferResult
from llcuda.errors import ConnectionFailedError, LlcudaError, RequestTimeoutError, ResponseError
from llcuda.gateway.grpc.grpc_translation import STATUSES
from llcuda.gateway.grpc.llcuda_pb2 import (
    DESCRIPTOR,
    Answer,
    BatchItem,
    BatchRequest,
    ChatRequest,
    Chunk,
    CompletionRequest,
    EmbedRequest,
    EmbedResponse,
    ListModelsRequest,
    ListModelsResponse,
    Sampling,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence
    from pathlib import Path

    from typing_extensions import Self

__all__ = ["GrpcClient"]

_HTTP_STATUSES = {code: status for status, code in STATUSES.items()}
_SAMPLING = frozenset({"max_tokens", "temperature", "top_p", "top_k", "seed"})
_SERVICE = DESCRIPTOR.services_by_name["Inference"].full_name
_Reply = TypeVar("_Reply", bound=Message)
_TIMEOUT = 600.0


class GrpcClient:
    """Ask a gateway that was started with ``--grpc-port``. Its methods can be called from several threads.

    What fails raises ResponseError with HTTP's status for it, RequestTimeoutError or ConnectionFailedError.
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int = 8091,
        *,
        api_key: str | None = None,
        timeout: float = _TIMEOUT,
        certificate: Path | None = None,
    ) -> None:
        """Connect with the first call; ``certificate`` is the file of the one that a gateway with TLS is known by."""
        self._address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._timeout = timeout
        self._metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()
        if certificate is None:
            self._channel = grpc.insecure_channel(self._address)
        else:
            credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
            self._channel = grpc.secure_channel(self._address, credentials)

    def infer(
        self, prompt: str, *, system: str | None = None, raw: bool = False, model: str | None = None, **options: Any
    ) -> InferResult:
        """Answer a prompt, through the model's chat template; with ``raw`` it is continued as it stands."""
        request = _make_request(prompt, system=system, raw=raw, model=model, options=options)
        began = monotonic()
        return _read_answer(self._call("Complete" if raw else "Chat", request, Answer), began=began)

    def infer_stream(
        self, prompt: str, *, system: str | None = None, raw: bool = False, model: str | None = None, **options: Any
    ) -> Generator[str, None, None]:
        """Yield the answer to a prompt piece by piece; who stops reading frees its slot."""
        request = _make_request(prompt, system=system, raw=raw, model=model, options=options)
        for chunk in self._stream("StreamComplete" if raw else "StreamChat", request, Chunk):
            if chunk.text:
                yield chunk.text

    def batch(
        self, prompts: Sequence[str], *, concurrency: int = 0, model: str | None = None, **options: Any
    ) -> list[InferResult | LlcudaError]:
        """Answer many prompts, ``concurrency`` at a time; in the place of one that failed stands its error."""
        request = BatchRequest(concurrency=concurrency)
        for prompt in check_prompts(prompts):
            request.items.add(chat=_make_chat(prompt, system=None, model=model, options=options))
        results: list[InferResult | LlcudaError] = [ResponseError(500, "it was not answered")] * len(prompts)
        began = monotonic()
        for item in self._stream("Batch", request, BatchItem):
            results[item.index] = (
                ResponseError(item.error.http_status, item.error.message)
                if item.HasField("error")
                else _read_answer(item.answer, began=began)
            )
        return results

    def embed(self, texts: Iterable[str], *, model: str | None = None) -> list[list[float]]:
        """Return a vector for each text, of a model that was started with ``embeddings=true``."""
        answer = self._call("Embed", EmbedRequest(input=texts, model=model or None), EmbedResponse)
        return [list(row.values) for row in answer.embeddings]

    def list_models(self) -> list[str]:
        """Return the names of the models that the gateway serves."""
        return list(self._call("ListModels", ListModelsRequest(), ListModelsResponse).models)

    def close(self) -> None:
        """Close the connection; calls that are under way fail."""
        self._channel.close()

    def __enter__(self) -> Self:
        """Use it for a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _call(self, name: str, request: Message, reply: type[_Reply]) -> _Reply:
        method = self._channel.unary_unary(f"/{_SERVICE}/{name}", type(request).SerializeToString, reply.FromString)
        try:
            answer: _Reply = method(request, metadata=self._metadata, timeout=self._timeout)
        except grpc.RpcError as error:
            self._fail(error)
        return answer

    def _stream(self, name: str, request: Message, reply: type[_Reply]) -> Iterator[_Reply]:
        method = self._channel.unary_stream(f"/{_SERVICE}/{name}", type(request).SerializeToString, reply.FromString)
        call = method(request, metadata=self._metadata, timeout=self._timeout)
        try:
            yield from call
        except grpc.RpcError as error:
            self._fail(error)
        finally:
            call.cancel()

    def _fail(self, error: Any) -> NoReturn:
        """Raise our error for one of gRPC's."""
        code, message = error.code(), error.details() or "the call failed"
        trailing = dict(error.trailing_metadata() or ())
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            raise RequestTimeoutError(message, timeout=self._timeout) from None
        if code is grpc.StatusCode.UNAVAILABLE and "llcuda-code" not in trailing:
            raise ConnectionFailedError(f"grpc://{self._address}", message) from None
        after = trailing.get("retry-after", "")
        status = _HTTP_STATUSES.get(code, 500)
        raise ResponseError(status, message, retry_after=float(after) if after.isdigit() else None) from None


def _make_request(
    prompt: str, *, system: str | None, raw: bool, model: str | None, options: dict[str, Any]
) -> CompletionRequest | ChatRequest:
    if raw:
        return CompletionRequest(prompt=prompt, model=model, sampling=_make_sampling(options))
    return _make_chat(prompt, system=system, model=model, options=options)


def _make_chat(prompt: str, *, system: str | None, model: str | None, options: dict[str, Any]) -> ChatRequest:
    request = ChatRequest(model=model, sampling=_make_sampling(options))
    if system is not None:
        request.messages.add(role="system", content=system)
    request.messages.add(role="user", content=prompt)
    return request


def _make_sampling(options: dict[str, Any]) -> Sampling:
    given = {name: value for name, value in options.items() if value is not None}
    stop = given.pop("stop_sequences", None) or given.pop("stop", None) or []
    typed = {name: given.pop(name) for name in _SAMPLING & given.keys()}
    return Sampling(**typed, stop=[stop] if isinstance(stop, str) else stop, options=given)


def _read_answer(answer: Answer, *, began: float) -> InferResult:
    tokens, seconds = answer.completion_tokens, answer.generation_ms / 1000
    return InferResult(
        text=answer.text,
        tokens_generated=tokens,
        prompt_tokens=answer.prompt_tokens,
        latency_ms=1000 * (monotonic() - began),
        time_to_first_token_ms=None,
        tokens_per_sec=tokens / seconds if seconds else 0.0,
        finish_reason=answer.finish_reason,
        model=answer.model,
        prompt_ms=answer.prompt_ms,
        generation_ms=answer.generation_ms,
    )
