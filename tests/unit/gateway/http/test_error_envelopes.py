"""What clients are told of llcuda's own errors, and what they are not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from llcuda import errors
from llcuda.gateway.http.error_envelopes import REFUSALS, to_refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

PATH = "/home/ann/models/secret.gguf"
LOG = ("main: api_key = sk-hidden", f"load: {PATH}")

# One of each leaf, with everything that must not get out.
EXAMPLES: list[errors.LlcudaError] = [
    errors.UsageError(f"{PATH} is not a whole number", hint=PATH),
    errors.BinaryNotFoundError("llama-server", searched=[f"package: {PATH}"]),
    errors.BinaryUnusableError(PATH, "no execute bit"),
    errors.InstallError(PATH, "it did not work", log_tail=LOG),
    errors.NoDeviceError(f"no GPU: {PATH}"),
    errors.UnsupportedDeviceError("3.5", built_for=["7.5"], hint=PATH),
    errors.DriverTooOldError("535", required="550"),
    errors.OutOfMemoryError(f"{PATH} does not fit", log_tail=LOG),
    errors.ModelNotFoundError(PATH, "no such file"),
    errors.ModelFormatError(PATH, "not GGUF", offset=3),
    errors.ChecksumMismatchError(PATH, expected="sha256:a", actual="sha256:b"),
    errors.DownloadError("https://user:sk-hidden@hub.example/x", "refused", status=403),
    errors.StorageError(f"https://user:sk-hidden@hub.example/x: {PATH}"),
    errors.DraftMismatchError(PATH, "vocabulary"),
    errors.ServerExitedError(f"it ended: {PATH}", returncode=1, log_tail=LOG),
    errors.ServerNotReadyError(f"{PATH} is not ready", timeout=3, log_tail=LOG),
    errors.PortInUseError("127.0.0.1", 4711, log_tail=LOG),
    errors.RequestTimeoutError("http://127.0.0.1:4711 did not answer", timeout=3),
    errors.ConnectionFailedError("http://127.0.0.1:4711", "refused"),
    errors.ResponseError(401, "Invalid API Key sk-hidden", body="sk-hidden"),
    errors.ResponseError(400, f"cannot read {PATH}", body=PATH),
    errors.ResponseError(500, f"cannot read {PATH}", body=PATH),
    errors.SchemaMismatchError("$.a: not a number", text="sk-hidden"),
]


def walk(kind: type[errors.LlcudaError]) -> Iterator[type[errors.LlcudaError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from walk(child)


def test_every_class_of_the_tree_is_in_the_table() -> None:
    assert set(REFUSALS) == set(walk(errors.LlcudaError))


def test_there_is_an_example_of_every_leaf() -> None:
    leaves = {kind for kind in walk(errors.LlcudaError) if not kind.__subclasses__()}
    assert {type(error) for error in EXAMPLES} == leaves


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_nothing_of_the_machine_gets_out(error: errors.LlcudaError) -> None:
    refusal = to_refusal(error)
    told = refusal.envelope().decode() + json.dumps(refusal.headers) + str(refusal)
    assert not [word for word in ("/", "sk-", "secret", "4711", "load:", "127.0.0.1") if word in told]
    assert refusal.code
    assert 400 <= refusal.status <= 504


def test_a_class_of_which_nothing_is_known_is_told_as_its_base() -> None:
    class NewError(errors.ServerNotReadyError):
        pass

    refusal = to_refusal(NewError("not yet", timeout=1))
    assert (refusal.status, refusal.code, refusal.headers) == (503, "worker_not_ready", {"Retry-After": "5"})


def test_what_is_wrong_with_the_request_is_said() -> None:
    assert to_refusal(errors.UsageError("top_p=7 is above 1")).message == "top_p=7 is above 1"
    refusal = to_refusal(errors.ResponseError(400, "the request exceeds the available context size"))
    assert (refusal.status, refusal.kind, refusal.code) == (400, "invalid_request_error", "invalid_request")
    assert "exceeds the available context size" in refusal.message


@pytest.mark.parametrize(("status", "told"), [(400, 400), (404, 404), (413, 413), (401, 502), (403, 502), (500, 502)])
def test_the_status_of_a_worker_is_passed_on_where_it_is_about_the_request(status: int, told: int) -> None:
    assert to_refusal(errors.ResponseError(status, "no")).status == told
