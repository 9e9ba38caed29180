"""curl asks a gateway: as the documentation says, as curl does when it is left to itself, and as Ollama is asked."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.process.gateway.clients.gateways import ANSWER, KEY, MESSAGES, QUESTION, gateway, is_busy
from tests.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llcuda.gateway.gateway import Gateway

AS_JSON = ("-H", "Content-Type: application/json")
WITH_KEY = ("-H", f"Authorization: Bearer {KEY}")
CHAT = json.dumps({"messages": MESSAGES, "temperature": 0})


@pytest.fixture(scope="module")
def running() -> Iterator[Gateway]:
    with gateway() as running:
        yield running


def curl(running: Gateway, path: str, *options: str) -> tuple[int, Any]:
    """Return the status and the JSON of an answer."""
    command = ["curl", "-sS", "--noproxy", "*", "-w", "\n%{http_code}", f"{running.url}{path}", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    body, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(body)


def test_a_question_is_answered(running: Gateway) -> None:
    status, answer = curl(running, "/v1/chat/completions", *WITH_KEY, *AS_JSON, "-d", CHAT)
    assert (status, answer["choices"][0]["message"]["content"]) == (200, ANSWER)
    status, answer = curl(running, "/v1/completions", *WITH_KEY, "--json", json.dumps({"prompt": QUESTION, "n": 1}))
    assert (status, answer["object"]) == (200, "text_completion")


def test_what_curl_sends_by_itself_is_refused_with_the_remedy(running: Gateway) -> None:
    status, answer = curl(running, "/v1/chat/completions", *WITH_KEY, "-d", CHAT)
    assert (status, answer["error"]["code"]) == (415, "invalid_content_type")
    remedy = answer["error"]["message"].partition("-H ")[2]
    assert remedy == "'Content-Type: application/json'"
    status, _ = curl(running, "/v1/chat/completions", *WITH_KEY, "-H", remedy.strip("'"), "-d", CHAT)
    assert status == 200


def test_without_a_key_the_answer_says_how_to_send_one(running: Gateway) -> None:
    status, answer = curl(running, "/v1/chat/completions", *AS_JSON, "-d", CHAT)
    assert status == 401
    assert "Authorization: Bearer KEY" in answer["error"]["message"]
    assert curl(running, "/health") == (200, {"status": "ok"})


def test_a_stream_comes_piece_by_piece_and_is_cancelled_with_curl(running: Gateway) -> None:
    endless = json.dumps({"prompt": QUESTION, "stream": True, "n_predict": 900, "ignore_eos": True, "n_probs": 100})
    command = ["curl", "-sSN", "--noproxy", "*", f"{running.url}/completion", *WITH_KEY, *AS_JSON, "-d", endless]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert json.loads(first.removeprefix("data: "))["stop"] is False
        assert is_busy(running)
        process.kill()
    wait_until(lambda: not is_busy(running))


def test_a_stream_is_whole_with_its_end(running: Gateway) -> None:
    body = json.dumps({"messages": MESSAGES, "temperature": 0, "stream": True})
    command = ["curl", "-sSN", "--noproxy", "*", f"{running.url}/v1/chat/completions", *WITH_KEY, *AS_JSON, "-d", body]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    events = [line.removeprefix("data: ") for line in lines if line]
    assert events.pop() == "[DONE]"
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events if json.loads(event)["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == ANSWER


def test_ollama_is_asked_as_its_documentation_says(running: Gateway) -> None:
    asked = {"model": "demo", "prompt": QUESTION, "stream": False, "options": {"temperature": 0}}
    status, answer = curl(running, "/api/generate", *WITH_KEY, "-d", json.dumps(asked))
    assert (status, answer["response"], answer["done"]) == (200, ANSWER, True)
    status, answer = curl(running, "/api/pull", *WITH_KEY, "-d", '{"model": "other"}')
    assert (status, answer["error"].endswith("start `llcuda serve -m NAME`.")) == (404, True)


def test_one_model_is_asked_for_by_its_name(running: Gateway) -> None:
    status, answer = curl(running, "/v1/models/demo", *WITH_KEY)
    assert (status, answer["id"], answer["object"]) == (200, "demo", "model")
    status, answer = curl(running, "/v1/models/a%2Fb", *WITH_KEY)
    assert (status, answer["error"]["message"]) == (404, "there is no model 'a/b'; there is demo")
    assert curl(running, "/v1/models/demo")[0] == 401
