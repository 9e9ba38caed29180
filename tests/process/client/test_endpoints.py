"""What every method of both clients sends, and what it makes of the answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from llcuda.client import RerankResult
from llcuda.errors import ConnectionFailedError, RequestTimeoutError, ResponseError
from tests.process.client.twins import CLIENTS
from tests.standins.stub_server import StubServer, answer

if TYPE_CHECKING:
    from collections.abc import Callable

MESSAGES = [{"role": "user", "content": "Hi"}]

# Method, arguments, request line, payload, answer, value.
CALLS: list[Any] = [
    ("health", [], {}, "GET /health", None, {"status": "ok"}, {"status": "ok"}),
    ("is_healthy", [], {}, "GET /health", None, {"status": "ok"}, True),
    ("is_healthy", [], {}, "GET /health", None, {"status": "sleeping"}, False),
    ("props", [], {}, "GET /props", None, {"total_slots": 2}, {"total_slots": 2}),
    ("models", [], {}, "GET /v1/models", None, {"data": [{"id": "m"}]}, [{"id": "m"}]),
    ("slots", [], {}, "GET /slots", None, [{"id": 0}], [{"id": 0}]),
    ("metrics", [], {}, "GET /metrics", None, b"# HELP x\na:b 2\n", {"a:b": 2.0}),
    ("lora_adapters", [], {}, "GET /lora-adapters", None, [{"id": 0, "scale": 1.0}], [{"id": 0, "scale": 1.0}]),
    (
        "set_lora_adapters", [{0: 0.5}], {}, "POST /lora-adapters", [{"id": 0, "scale": 0.5}], {"success": True}, None,
    ),
    (
        "tokenize", ["é"], {}, "POST /tokenize",
        {"content": "é", "add_special": False, "parse_special": True}, {"tokens": [1, 2]}, [1, 2],
    ),
    (
        "tokenize", ["x"], {"add_special": True, "parse_special": False}, "POST /tokenize",
        {"content": "x", "add_special": True, "parse_special": False}, {"tokens": []}, [],
    ),
    ("detokenize", [[1, 2]], {}, "POST /detokenize", {"tokens": [1, 2]}, {"content": "é"}, "é"),
    ("apply_template", [MESSAGES], {}, "POST /apply-template", {"messages": MESSAGES}, {"prompt": "<Hi>"}, "<Hi>"),
    (
        "embed", [["a", "b"]], {}, "POST /v1/embeddings", {"input": ["a", "b"], "encoding_format": "base64"},
        {"data": [{"index": 1, "embedding": [2.0]}, {"index": 0, "embedding": "AACAPw=="}]}, [[1.0], [2.0]],
    ),
    (
        "rerank", ["q", ["x", "y"]], {"top_n": 1}, "POST /v1/rerank",
        {"query": "q", "documents": ["x", "y"], "top_n": 1},
        {"results": [{"index": 1, "relevance_score": 0.5}]}, [RerankResult(1, 0.5, "y")],
    ),
    (
        "save_slot", [1, "a.bin"], {}, "POST /slots/1?action=save", {"filename": "a.bin"}, {"n_saved": 3},
        {"n_saved": 3},
    ),
    (
        "restore_slot", [1, "a.bin"], {}, "POST /slots/1?action=restore", {"filename": "a.bin"}, {"n_restored": 3},
        {"n_restored": 3},
    ),
    ("erase_slot", [0], {}, "POST /slots/0?action=erase", {}, {"n_erased": 3}, {"n_erased": 3}),
]  # fmt: skip


@pytest.mark.parametrize("kind", sorted(CLIENTS))
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[0])
def test_a_method_sends_what_the_endpoint_takes_and_returns_what_it_says(call: Any, kind: str) -> None:
    method, arguments, options, line, payload, sent, value = call
    with StubServer(answer(sent)) as stub, CLIENTS[kind](url=stub.url) as client:
        assert getattr(client, method)(*arguments, **options) == value
        head, _, body = stub.requests[0].partition(b"\r\n\r\n")
        assert head.split(b"\r\n")[0].decode() == f"{line} HTTP/1.1"
        assert (json.loads(body) if body else None) == payload


@pytest.mark.parametrize("kind", sorted(CLIENTS))
@pytest.mark.parametrize("call", [call for call in CALLS if call[0] != "is_healthy"], ids=lambda call: call[0])
def test_every_method_raises_what_the_server_reports(call: Any, kind: str) -> None:
    refusal = {"error": {"code": 501, "message": "This server does not do that", "type": "not_supported_error"}}
    method, arguments, options, *_ = call
    with StubServer(answer(refusal, status=501)) as stub, CLIENTS[kind](url=stub.url) as client:
        with pytest.raises(ResponseError, match="does not do that") as caught:
            getattr(client, method)(*arguments, **options)
        assert (caught.value.status, "started" in caught.value.hint) == (501, True)
        assert "not_supported_error" in caught.value.body


@pytest.mark.parametrize("kind", sorted(CLIENTS))
@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda kind: CLIENTS[kind]("127.0.0.1", 1), ConnectionFailedError),
        (lambda kind: CLIENTS[kind](host="::1", port=1), ConnectionFailedError),
        (lambda kind: CLIENTS[kind]("localhost", 1, timeout=1e-9), RequestTimeoutError),
    ],
)
def test_a_client_is_made_without_a_server_and_fails_when_it_is_asked(
    make: Callable[[str], Any], error: type[Exception], kind: str
) -> None:
    with make(kind) as client:
        assert client.is_healthy() is False
        with pytest.raises(error):
            client.props()
