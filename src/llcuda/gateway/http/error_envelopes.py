"""The one table of what a client is told of an error of llcuda's, and with which status."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from http import HTTPStatus

from llcuda import errors
from llcuda.fleet.refusals import RefusedError

__all__ = ["REFUSALS", "Refusal", "read_refusal", "to_refusal", "write_envelope"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """HTTP's ``status``, a word for programs, and a sentence that says nothing about this machine.

    ``is_about_request`` lets the error's own message take the sentence's place: it speaks of what the client sent.
    """

    status: int
    code: str
    message: str
    is_about_request: bool = False
    retry_after: int | None = None
    """Seconds after which it may be tried again."""


_LOG = "; the gateway's log says more"

REFUSALS: dict[type[errors.LlcudaError], Refusal] = {
    errors.LlcudaError: Refusal(500, "internal_error", f"the request failed{_LOG}"),
    errors.UsageError: Refusal(400, "invalid_request", "a value of the request cannot be used", is_about_request=True),
    errors.BinaryError: Refusal(503, "binaries_unusable", f"llama-server cannot be used here{_LOG}"),
    errors.BinaryNotFoundError: Refusal(503, "binaries_unusable", f"llama-server is not installed whole{_LOG}"),
    errors.BinaryUnusableError: Refusal(503, "binaries_unusable", f"llama-server cannot be run here{_LOG}"),
    errors.InstallError: Refusal(500, "install_failed", f"nothing was installed; what was in use still is{_LOG}"),
    errors.DeviceError: Refusal(503, "device_unavailable", f"the GPU cannot be used{_LOG}"),
    errors.NoDeviceError: Refusal(503, "device_unavailable", "there is no GPU that can be used"),
    errors.UnsupportedDeviceError: Refusal(503, "device_unsupported", "the backend was not built for this GPU"),
    errors.DriverTooOldError: Refusal(503, "driver_too_old", "the NVIDIA driver is too old for the backend"),
    errors.OutOfMemoryError: Refusal(503, "out_of_memory", "the memory does not suffice for the model"),
    errors.ModelError: Refusal(503, "model_unavailable", f"the model cannot be used{_LOG}"),
    errors.ModelNotFoundError: Refusal(404, "model_not_found", "the model was not found"),
    errors.ModelFormatError: Refusal(503, "model_unusable", f"the model's file cannot be used{_LOG}"),
    errors.ChecksumMismatchError: Refusal(503, "model_unusable", f"the model's file is not the one meant{_LOG}"),
    errors.StorageError: Refusal(503, "model_unusable", "the remote that keeps models does not answer"),
    errors.DownloadError: Refusal(503, "model_unavailable", f"the model could not be downloaded{_LOG}", retry_after=30),
    errors.DraftMismatchError: Refusal(503, "model_unusable", "the draft has another vocabulary than the model"),
    errors.ServerError: Refusal(503, "worker_failed", f"a worker failed{_LOG}", retry_after=1),
    errors.ServerExitedError: Refusal(503, "worker_failed", f"a worker ended by itself{_LOG}", retry_after=1),
    errors.ServerNotReadyError: Refusal(503, "worker_not_ready", "a worker is not ready yet", retry_after=5),
    errors.PortInUseError: Refusal(503, "worker_failed", f"a worker could not be started{_LOG}", retry_after=1),
    errors.RequestError: Refusal(502, "worker_failed", f"a worker did not answer the request{_LOG}"),
    errors.RequestTimeoutError: Refusal(504, "timeout", "the answer did not come in time"),
    errors.ConnectionFailedError: Refusal(502, "worker_failed", "the connection to a worker broke", retry_after=1),
    errors.ResponseError: Refusal(502, "worker_failed", f"a worker answered with an error{_LOG}"),
    errors.SchemaMismatchError: Refusal(
        502, "schema_mismatch", "the answer does not match the schema", is_about_request=True
    ),
}

# What llama-server says of a request that it will not take. Its 401 and 403 are about the gateway's own key.
_PASSED_ON = frozenset({400, 404, 413, 422})


_SERVER_ERROR = 500
# Of Anthropic's kinds, those that OpenAI's API has other words for.
_ANTHROPIC = {
    413: "request_too_large",
    500: "api_error",
    502: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}


# What llama-server says in words of its command line: a pattern, status and code, the field, and what to say.
_LARGER = "send less, or have the model served with a larger ctx_size"
_ITEMS = "a message with role and content, a function_call or a function_call_output with its call_id"
_VALUE, _LONG, _NOT = (400, "invalid_value"), (400, "context_length_exceeded"), (400, "not_supported")
_WORKER_SAYS = tuple(
    (re.compile(pattern), kind, param, said)
    for pattern, kind, param, said in (
        (
            r"request \((\d+) tokens\) exceeds the available context size \((\d+) tokens\)", _LONG, None,
            f"the request has {{0}} tokens, and exceeds the available context size of {{1}}; {_LARGER}",
        ),
        (
            r"input \((\d+) tokens\) is (?:too large|larger).*?size:? \(?(\d+)", _LONG, "input",
            f"an input has {{0}} tokens, and may have {{1}}; {_LARGER}",
        ),
        (
            r"does not support (embeddings|reranking)", _NOT, "model",
            "this model is not served for {0}; name another, or have it served with --server-option {0}=true",
        ),
        (
            r"^(image|audio|video) input is not supported", _NOT, "messages",
            "this model takes no {0}; leave it out, or have the model served with its projector (mmproj)",
        ),
        (
            r"^Field '(?:n|n_cmpl)': .*<= value <= (\d+)", _VALUE, "n",
            "n may be {0} at most: this model is served with as many slots; ask again for more answers",
        ),
        (r"^Field '(\w+)': (.*)", _VALUE, "{0}", "{0}: {1}"),
        (
            r"tool_choice is 'required', and this model", _NOT, "tool_choice",
            "tool_choice asks for a call, and this model's chat template has none; take a model that is made for tools",
        ),
        (r"^(top_logprobs) requires logprobs", _VALUE, "{0}", "{0} needs logprobs to be true"),
        (r"^Cannot determine type of 'item'", _VALUE, "input", f"input has an item that is none of these: {_ITEMS}"),
        (
            r"While executing [\s\S]*\nError: (?:Jinja Exception: )?(.+)", _VALUE, "messages",
            "the model's chat template does not take these messages: {0}",
        ),
        (
            r"Prompt contains invalid tokens", _VALUE, None,
            "a number is no token of this model: send the text, or ids from /tokenize",
        ),
    )
)  # fmt: skip


def read_refusal(status: int, body: bytes) -> RefusedError:
    """Return what a worker refused a request with, in the words of whoever asked."""
    try:
        message = str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        message = "the worker answered with an error"
    for pattern, (known_status, code), param, said in _WORKER_SAYS:
        if found := pattern.search(message):
            groups = found.groups()
            return RefusedError(known_status, said.format(*groups), code=code, param=param and param.format(*groups))
    return RefusedError(status, message, code="invalid_request" if status < _SERVER_ERROR else "worker_failed")


def write_envelope(error: RefusedError, endpoint: str) -> bytes:
    """Return the body of a refusal, as the API of the endpoint writes it."""
    if endpoint.startswith("messages"):
        told = json.loads(error.envelope())["error"]
        return json.dumps(
            {"type": "error", "error": {**told, "type": _ANTHROPIC.get(error.status, error.kind)}}
        ).encode()
    if endpoint.startswith("ollama"):
        return json.dumps({"error": error.message}, ensure_ascii=False).encode()
    return error.envelope()


def to_refusal(error: errors.LlcudaError) -> RefusedError:
    """Return what the client is told: never a path, a line of a log, an address or a key."""
    refusal = _find(error)
    headers = {} if refusal.retry_after is None else {"Retry-After": str(refusal.retry_after)}
    message = error.message if refusal.is_about_request and _is_public(error.message) else refusal.message
    return RefusedError(refusal.status, message, code=refusal.code, headers=headers)


def _find(error: errors.LlcudaError) -> Refusal:
    if isinstance(error, errors.ResponseError) and error.status in _PASSED_ON:
        sentence = HTTPStatus(error.status).phrase.lower()
        return Refusal(error.status, "invalid_request", f"the model's server says: {sentence}", is_about_request=True)
    return next(REFUSALS[kind] for kind in type(error).__mro__ if kind in REFUSALS)


def _is_public(message: str) -> bool:
    """Return whether it can name neither a path nor an address: every one of those has a slash."""
    return "/" not in message and "\\" not in message
