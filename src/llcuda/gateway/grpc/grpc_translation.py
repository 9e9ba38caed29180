"""Between the messages of the binary protocol and the bodies that the gateway takes and gives. No I/O."""

from __future__ import annotations

import json
import math
from time import monotonic
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import json_format

from llcuda.client.answers import ChatAnswer, CompletionAnswer
from llcuda.errors import ResponseError
from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.grpc.llcuda_pb2 import Answer, ChatRequest

if TYPE_CHECKING:
    from llcuda.client.answers import GatheredAnswer
    from llcuda.gateway.grpc.llcuda_pb2 import BatchRequest, CompletionRequest, EmbedRequest, Sampling

__all__ = [
    "STATUSES", "begin_answer", "make_answer", "make_body", "make_embed_body", "read_error", "read_item", "read_whole",
    "to_status", "trailing_metadata",
]  # fmt: skip

STATUSES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""Those of HTTP that have one of gRPC's to themselves."""
_CLIENT_ERRORS = range(400, 500)
_TYPED = ("max_tokens", "temperature", "top_p", "top_k", "seed")
# What has a field of its own, or no place in an answer of this protocol.
_NOT_OPTIONS = frozenset({
    *_TYPED, "stop", "model", "prompt", "messages", "stream", "stream_options", "n", "n_cmpl", "n_probs", "logprobs",
    "top_logprobs", "return_tokens", "post_sampling_probs", "tools", "tool_choice",
})  # fmt: skip


def to_status(http_status: int) -> grpc.StatusCode:
    """Return gRPC's status for one of HTTP."""
    other = grpc.StatusCode.INVALID_ARGUMENT if http_status in _CLIENT_ERRORS else grpc.StatusCode.INTERNAL
    return STATUSES.get(http_status, other)


def trailing_metadata(error: RefusedError) -> tuple[tuple[str, str], ...]:
    """Return what a call that failed ends with: the code, and when to try again."""
    pairs = {"llcuda-code": error.code or "", **{name.lower(): value for name, value in error.headers.items()}}
    return tuple((name, value) for name, value in pairs.items() if name in {"llcuda-code", "retry-after"})


def read_error(status: int, body: bytes) -> RefusedError:
    """Return the refusal that a llama-server's error is; its own ``type`` becomes the code."""
    try:
        error = json.loads(body)["error"]
        return RefusedError(status, str(error["message"]), code=str(error["type"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return RefusedError(status, "a worker answered with an error", code="worker_failed")


def read_item(item: BatchRequest.Item) -> CompletionRequest | ChatRequest:
    """Return the request of a batch's item; an empty one is a completion without a prompt, and refused as such."""
    return item.chat if item.HasField("chat") else item.complete


def make_body(request: CompletionRequest | ChatRequest, *, streams: bool) -> bytes:
    """Return the body of a request. Raises RefusedError."""
    fields = _read_options(request.sampling)
    if request.HasField("model"):
        fields["model"] = request.model
    if isinstance(request, ChatRequest):
        fields["messages"] = [{"role": one.role, "content": one.content} for one in request.messages]
    elif request.prompt:
        fields["prompt"] = request.prompt
    if streams:
        fields["stream"] = True
        if "messages" in fields:
            fields["stream_options"] = {"include_usage": True}
    return json.dumps(fields, ensure_ascii=False).encode()


def make_embed_body(request: EmbedRequest) -> bytes:
    """Return the body of an EmbedRequest."""
    fields = {"input": list(request.input), **({"model": request.model} if request.HasField("model") else {})}
    return json.dumps(fields, ensure_ascii=False).encode()


def begin_answer(request: CompletionRequest | ChatRequest) -> tuple[GatheredAnswer, str]:
    """Return what gathers the answer to a request, begun now, and the path that answers it."""
    if isinstance(request, ChatRequest):
        return ChatAnswer(started=monotonic(), schema=None), "/v1/chat/completions"
    return CompletionAnswer(started=monotonic(), schema=None), "/completion"


def read_whole(answer: GatheredAnswer, body: bytes) -> None:
    """Add the body of an answer that did not stream. Raises RefusedError for one that is not understood."""
    try:
        answer.add(body)
    except ResponseError as error:
        raise RefusedError(502, f"a worker's answer is not understood ({error})", code="bad_answer") from None


def make_answer(answer: GatheredAnswer, *, worker: str, model: str, text: bool) -> Answer:
    """Return the message of an answer that is complete, with its ``text`` or without."""
    result = answer.result()
    return Answer(
        text=result.text if text else "",
        finish_reason=result.finish_reason,
        prompt_tokens=result.prompt_tokens,
        completion_tokens=result.tokens_generated,
        prompt_ms=result.prompt_ms,
        generation_ms=result.generation_ms,
        latency_ms=result.latency_ms,
        model=model,
        worker=worker,
    )


def _read_options(sampling: Sampling) -> dict[str, Any]:
    try:
        options = {name: _to_json(value) for name, value in json_format.MessageToDict(sampling.options).items()}
    except (json_format.Error, ValueError):
        reason = "options has a value that is none, or a number that is not finite"
        raise RefusedError(400, reason, code="invalid_value", param="options") from None
    for name in options:
        if name in _NOT_OPTIONS:
            reason = f"{name} is not one of the options of this protocol"
            raise RefusedError(400, reason, code="unknown_field", param=name)
    options |= {name: _read_number(name, getattr(sampling, name)) for name in _TYPED if sampling.HasField(name)}
    if sampling.stop:
        options["stop"] = list(sampling.stop)
    return options


def _read_number(name: str, number: float) -> float:
    if not math.isfinite(number):
        raise RefusedError(400, f"{name} must be a finite number, and is {number}", code="invalid_value", param=name)
    return number


def _to_json(value: Any) -> Any:
    """Return the value with whole numbers as such: a Struct has only numbers of the other kind."""
    if isinstance(value, dict):
        return {name: _to_json(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_to_json(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
