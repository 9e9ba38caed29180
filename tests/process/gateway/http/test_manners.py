"""What clients send that is nearly right, to a gateway with two models, one of which has other names."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import httpx
import pytest

from llcuda.gateway import GatewayConfig, ModelConfig
from llcuda.gateway.gateway import Gateway
from llcuda.gateway.http.routes import ROUTES

if TYPE_CHECKING:
    from collections.abc import Iterator

QUESTION = {"messages": [{"role": "user", "content": "What is 2+2?"}], "temperature": 0}
MODELS = (
    ModelConfig("demo", "demo", device="cpu", slots=2, aliases=("gpt-4o-mini", "org/name")),
    ModelConfig("small", "demo-draft", device="cpu", on_demand=True),
)
GETS = sorted(path for method, path in ROUTES if method == "GET" and path != "/chat/models/sse")


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with (
        Gateway(GatewayConfig(MODELS, port=0)) as gateway,
        httpx.Client(base_url=gateway.url, timeout=60, trust_env=False) as client,
    ):
        yield client


@pytest.mark.parametrize("path", [*GETS, "/v1/models/demo", "/chat/", "/nothing"])
def test_head_says_what_get_says_without_the_body(http: httpx.Client, path: str) -> None:
    got, told = http.get(path), http.head(path)
    assert (told.status_code, told.content) == (got.status_code, b"")
    assert told.headers["Content-Type"] == got.headers["Content-Type"]
    assert int(told.headers["Content-Length"]) > 0 or not got.content
    assert http.get("/health").json() == {"status": "ok"}  # the connection is where it should be


@pytest.mark.parametrize("path", ["//v1/chat/completions", "/v1/v1/chat/completions", "/v1/chat/completions/"])
def test_a_base_url_that_is_nearly_right_is_answered(http: httpx.Client, path: str) -> None:
    answer = http.request("POST", http.base_url.copy_with(raw_path=path.encode()), json=QUESTION)
    assert answer.json()["choices"][0]["message"]["content"] == "2 + 2 = 4."


@pytest.mark.parametrize("host", ["localhost:18090", "127.0.0.1:80", "[::1]:443"])
def test_a_mapped_port_is_answered(http: httpx.Client, host: str) -> None:
    origin = f"http://{host}"
    assert http.get("/health", headers={"Host": host, "Origin": origin}).status_code == 200
    assert http.get("/health", headers={"Host": "evil.example"}).status_code == 421


def test_a_body_of_a_windows_program_is_read(http: httpx.Client) -> None:
    headers = {"Content-Type": "application/json; charset=utf8"}
    body = b"\xef\xbb\xbf" + json.dumps(QUESTION).encode()
    answer = http.post("/v1/chat/completions", content=body, headers=headers)
    assert answer.json()["choices"][0]["message"]["content"] == "2 + 2 = 4."


def test_a_model_answers_by_its_aliases_and_is_counted_under_its_name(http: httpx.Client) -> None:
    listed = [model["id"] for model in http.get("/v1/models").json()["data"]]
    assert listed == ["demo", "gpt-4o-mini", "org/name", "small"]
    assert http.get("/v1/models/org%2Fname").json()["id"] == "org/name"
    answer = http.post("/v1/chat/completions", json={**QUESTION, "model": "gpt-4o-mini"})
    assert answer.json()["choices"][0]["message"]["content"] == "2 + 2 = 4."
    metrics = http.get("/metrics").text
    assert 'model="demo"' in metrics
    assert "gpt-4o-mini" not in metrics
    unknown = http.post("/v1/chat/completions", json={**QUESTION, "model": "gpt-5"})
    assert unknown.status_code == 404
    assert unknown.json()["error"]["message"].endswith("there is demo, gpt-4o-mini, org/name, small")


def test_the_chat_page_is_told_that_there_are_several_models(http: httpx.Client) -> None:
    assert http.get("/chat/props").json()["role"] == "router"
    assert "role" not in http.get("/props").json()
    assert "role" not in http.get("/chat/props", params={"model": "demo"}).json()
    told = {model["id"]: model["status"]["value"] for model in http.get("/chat/v1/models").json()["data"]}
    assert told == {"demo": "loaded", "small": "loaded"}


def test_restarts_are_counted(http: httpx.Client) -> None:
    assert 'llcuda_worker_restarts_total{model="demo",worker="demo/0"} 0.0' in http.get("/metrics").text
