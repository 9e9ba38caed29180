"""A client of the gateway's binary protocol, with the results and errors of :class:`llcuda.InferenceClient`."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from llcuda.client.results import InferResult
from llcuda.errors import ConnectionFailedError, LlcudaError, RequestTimeoutError, ResponseError
from llcuda.gateway.grpc.grpc_messages import SERVICE, find_service, make

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence
    from pathlib import Path

    from typing_extensions import Self

__all__ = ["GrpcClient"]

_HTTP_STATUSES = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
}
_SAMPLING = frozenset({"max_tokens", "temperature", "top_p", "top_k", "seed"})
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
        name, request = _make_request(prompt, system=system, raw=raw, model=model, options=options)
        began = monotonic()
        return _read_answer(self._call(name, request), began=began)

    def infer_stream(
        self, prompt: str, *, system: str | None = None, raw: bool = False, model: str | None = None, **options: Any
    ) -> Generator[str, None, None]:
        """Yield the answer to a prompt piece by piece; who stops reading frees its slot."""
        name, request = _make_request(prompt, system=system, raw=raw, model=model, options=options)
        for chunk in self._stream(f"Stream{name}", request):
            if chunk.text:
                yield chunk.text

    def batch(
        self, prompts: Sequence[str], *, concurrency: int = 0, model: str | None = None, **options: Any
    ) -> list[InferResult | LlcudaError]:
        """Answer many prompts, ``concurrency`` at a time; in the place of one that failed stands its error."""
        items = [
            {"chat": _make_request(prompt, system=None, raw=False, model=model, options=options)[1]}
            for prompt in prompts
        ]
        results: list[InferResult | LlcudaError] = [ResponseError(500, "it was not answered")] * len(prompts)
        began = monotonic()
        for item in self._stream("Batch", {"items": items, "concurrency": concurrency}):
            failed = item.WhichOneof("outcome") == "error"
            results[item.index] = (
                ResponseError(item.error.http_status, item.error.message)
                if failed
                else _read_answer(item.answer, began=began)
            )
        return results

    def embed(self, texts: Iterable[str], *, model: str | None = None) -> list[list[float]]:
        """Return a vector for each text, of a model that was started with ``embeddings=true``."""
        answer = self._call("Embed", {"input": list(texts), **({"model": model} if model else {})})
        return [list(row.values) for row in answer.embeddings]

    def list_models(self) -> list[str]:
        """Return the names of the models that the gateway serves."""
        return list(self._call("ListModels", {}).models)

    def close(self) -> None:
        """Close the connection; calls that are under way fail."""
        self._channel.close()

    def __enter__(self) -> Self:
        """Use it for a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _call(self, name: str, fields: dict[str, Any]) -> Any:
        try:
            return self._find(name)(**self._arguments(name, fields))
        except grpc.RpcError as error:
            self._fail(error)

    def _stream(self, name: str, fields: dict[str, Any]) -> Iterator[Any]:
        call = self._find(name)(**self._arguments(name, fields))
        try:
            yield from call
        except grpc.RpcError as error:
            self._fail(error)
        finally:
            call.cancel()

    def _arguments(self, name: str, fields: dict[str, Any]) -> dict[str, Any]:
        message = make(find_service().methods_by_name[name].input_type.name)
        return {"request": message(**fields), "metadata": self._metadata, "timeout": self._timeout}

    def _find(self, name: str) -> Any:
        method = find_service().methods_by_name[name]
        begin = self._channel.unary_stream if method.server_streaming else self._channel.unary_unary
        return begin(
            f"/{SERVICE}/{name}",
            request_serializer=make(method.input_type.name).SerializeToString,
            response_deserializer=make(method.output_type.name).FromString,
        )

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
) -> tuple[str, dict[str, Any]]:
    """Return the method and the fields of its request."""
    given = {name: value for name, value in options.items() if value is not None}
    stop = given.pop("stop_sequences", None) or given.pop("stop", None) or []
    sampling = {name: given.pop(name) for name in _SAMPLING & given.keys()}
    fields: dict[str, Any] = {"sampling": {**sampling, "stop": [stop] if isinstance(stop, str) else list(stop)}}
    fields["sampling"]["options"] = given
    if model is not None:
        fields["model"] = model
    if raw:
        return "Complete", {**fields, "prompt": prompt}
    before = [{"role": "system", "content": system}] if system is not None else []
    return "Chat", {**fields, "messages": [*before, {"role": "user", "content": prompt}]}


def _read_answer(answer: Any, *, began: float) -> InferResult:
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
