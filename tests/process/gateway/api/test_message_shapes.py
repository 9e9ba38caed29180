"""Messages and tools in whatever shape, to a real llama-server: none is an error of the server's."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.inputs.message_shapes import SHAPES
from tests.process.gateway.clients.gateways import KEY, gateway

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = int(os.environ.get("LLCUDA_TEST_EXAMPLES", "80"))
LIMITS: dict[str, Any] = {"/v1/responses": {"max_output_tokens": 3}, "/api/chat": {"options": {"num_predict": 3}}}
OWN = {"schema_mismatch", "tool_call_missing"}
"""What the model did, and no client."""


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {KEY}"}
    with (
        gateway(workers=1) as running,
        httpx.Client(base_url=running.url, headers=headers, trust_env=False, timeout=60) as client,
    ):
        (worker,) = running._running.models["demo"].workers  # type: ignore[union-attr]
        pid = worker.server.pid
        yield client
        (worker,) = running._running.models["demo"].workers  # type: ignore[union-attr]
        assert worker.server.pid == pid


@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", SHAPES)
@settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_shape_of_a_body_is_an_error_of_the_server(path: str, client: httpx.Client, data: Any) -> None:
    body = {"model": "demo", **LIMITS.get(path, {"max_tokens": 3}), **data.draw(SHAPES[path])}
    answer = client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
    if answer.status_code >= 500:
        error = answer.json()["error"]
        assert isinstance(error, dict), answer.text
        assert error["code"] in OWN, answer.text
    assert "worker_failed" not in answer.text
    assert "bad_answer" not in answer.text
