"""Ollama's own client asks a gateway as it asks Ollama."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import httpx
import ollama
import pydantic
import pytest

from tests.process.gateway.clients.gateways import ANSWER, KEY, MESSAGES, PARAMETERS, QUESTION, gateway, is_busy
from tests.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llcuda.gateway.gateway import Gateway

WITH_KEY = {"Authorization": f"Bearer {KEY}"}
TOOL: Any = {"type": "function", "function": {"name": "add", "description": "Add.", "parameters": PARAMETERS}}
LIKELIEST: Any = {"temperature": 0, "num_ctx": 4096, "num_predict": 60}


class Sum(pydantic.BaseModel):
    answer: int


@pytest.fixture(scope="module")
def asker(running: Gateway) -> Iterator[ollama.Client]:
    client = ollama.Client(host=running.url, headers=WITH_KEY, trust_env=False)
    yield client
    client._client.close()


class TestChat:
    def test_whole(self, asker: ollama.Client) -> None:
        answer = asker.chat("demo:latest", messages=MESSAGES, options=LIKELIEST, keep_alive="5m")
        assert (answer.model, answer.message.content, answer.done_reason) == ("demo:latest", ANSWER, "stop")
        assert answer.eval_count
        assert answer.prompt_eval_count == 15
        assert answer.total_duration

    def test_streamed(self, asker: ollama.Client) -> None:
        *pieces, last = asker.chat("demo", messages=MESSAGES, options=LIKELIEST, stream=True)
        assert "".join(piece.message.content or "" for piece in pieces) == ANSWER
        assert not any(piece.done for piece in pieces)
        assert (last.done, last.done_reason, last.message.content) == (True, "stop", "")
        assert last.eval_count

    def test_cut_off(self, asker: ollama.Client) -> None:
        options = {**LIKELIEST, "num_predict": 2}
        assert asker.chat("demo", messages=MESSAGES, options=options).done_reason == "length"
        *_, last = asker.chat("demo", messages=MESSAGES, options=options, stream=True)
        assert last.done_reason == "length"

    def test_a_schema_is_held_to(self, asker: ollama.Client) -> None:
        answer = asker.chat("demo", messages=MESSAGES, options=LIKELIEST, format=Sum.model_json_schema())
        assert Sum.model_validate_json(answer.message.content or "") == Sum(answer=4)

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_tool_is_called_and_its_result_is_answered(self, asker: ollama.Client, *, stream: bool) -> None:
        asked: Any = {"model": "demo", "tools": [TOOL], "options": LIKELIEST}
        answer: Any = asker.chat(**asked, messages=MESSAGES, stream=cast("Any", stream))
        said = next(part for part in answer if part.message.tool_calls) if stream else answer
        (call,) = said.message.tool_calls
        assert (call.function.name, call.function.arguments) == ("add", {"a": 2, "b": 2})
        turns = [*MESSAGES, said.message, {"role": "tool", "tool_name": "add", "content": "4"}]
        assert "4" in (asker.chat(**asked, messages=turns).message.content or "")

    def test_probabilities(self, asker: ollama.Client) -> None:
        answer = asker.chat("demo", messages=MESSAGES, options=LIKELIEST, logprobs=True, top_logprobs=2)
        assert answer.logprobs
        assert "".join(one.token for one in answer.logprobs).startswith(ANSWER)
        assert len(answer.logprobs[0].top_logprobs or ()) == 2

    def test_by_the_client_for_event_loops(self, running: Gateway) -> None:
        async def ask() -> str:
            client = ollama.AsyncClient(host=running.url, headers=WITH_KEY, trust_env=False)
            answer = await client.chat("demo", messages=MESSAGES, options=LIKELIEST)
            await client._client.aclose()
            return answer.message.content or ""

        assert asyncio.run(ask()) == ANSWER


class TestGenerate:
    def test_whole_and_streamed(self, asker: ollama.Client) -> None:
        asked: Any = {"model": "demo", "prompt": QUESTION, "options": LIKELIEST}
        assert asker.generate(**asked).response == ANSWER
        assert "".join(piece.response or "" for piece in asker.generate(**asked, stream=True)) == ANSWER

    def test_raw_and_with_a_suffix(self, asker: ollama.Client) -> None:
        asked: Any = {"model": "demo", "options": {**LIKELIEST, "num_predict": 5}}
        raw = asker.generate(**asked, prompt="2 + 2 =", raw=True)
        assert (raw.eval_count, raw.done_reason) == (4, "stop")
        pieces = asker.generate(**asked, prompt="2 + 2 =", raw=True, stream=True)
        assert "".join(piece.response or "" for piece in pieces) == raw.response
        assert asker.generate(**asked, prompt="def f(", suffix="return 1").eval_count

    def test_without_a_prompt_the_model_is_loaded(self, asker: ollama.Client) -> None:
        assert asker.generate("demo").done_reason == "load"
        assert asker.chat("demo", messages=[]).done_reason == "load"


def test_vectors() -> None:
    with gateway(workers=1, embeddings=True) as running:
        client = ollama.Client(host=running.url, headers=WITH_KEY, trust_env=False)
        answer = client.embed("demo", input=["one", "two"])
        assert len(answer.embeddings) == 2
        one = client.embeddings("demo", prompt="one").embedding
        # Computed together with another text, it differs in its last digits.
        assert list(one) == pytest.approx(list(answer.embeddings[0]), abs=1e-3)
        client._client.close()


class TestModels:
    def test_they_are_listed_and_shown(self, asker: ollama.Client) -> None:
        (listed,) = asker.list().models
        assert listed.model == "demo"
        assert listed.details
        assert (listed.details.family, listed.details.quantization_level) == ("llama", "F16")
        (loaded,) = asker.ps().models
        assert (loaded.model, loaded.context_length) == ("demo", 1024)
        shown = asker.show("demo")
        assert shown.capabilities == ["completion", "tools"]
        assert (shown.modelinfo or {})["llama.context_length"] == 1024
        assert "<|im_start|>" in (shown.template or "")
        with pytest.raises(ollama.ResponseError, match="there is demo"):
            asker.show("other")

    def test_one_that_is_here_need_not_be_pulled(self, asker: ollama.Client) -> None:
        assert asker.pull("demo").status == "success"
        assert [step.status for step in asker.pull("demo", stream=True)] == ["success"]

    @pytest.mark.parametrize(
        "manage",
        [
            lambda asker: asker.pull("other"),
            lambda asker: asker.push("demo"),
            lambda asker: asker.create("mine", from_="demo"),
            lambda asker: asker.copy("demo", "mine"),
            lambda asker: asker.delete("demo"),
        ],
    )
    def test_whoever_manages_them_is_told_what_to_do(self, asker: ollama.Client, manage: Any) -> None:
        if manage.__code__.co_names[0] in {"copy", "delete"}:
            with pytest.raises(ollama.ResponseError) as caught:
                manage(asker)
        else:
            with pytest.raises(ollama.ResponseError, match="llcuda models pull NAME") as caught:
                manage(asker)
        assert caught.value.status_code == 404

    def test_the_release_is_new_enough_for_editors(self, running: Gateway) -> None:
        version = httpx.get(f"{running.url}/api/version", trust_env=False).json()["version"]
        assert tuple(map(int, version.split("."))) >= (0, 6, 4)


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "status", "reason"),
        [
            ({"model": "other", "messages": MESSAGES}, 404, "there is demo"),
            ({"model": "demo", "messages": MESSAGES, "options": {"temperature": -1}}, 400, "temperature must be"),
            ({"model": "demo", "messages": [{"role": "user", "images": "x"}]}, 400, "messages[0].images must be"),
            ({"model": "demo", "messages": [{"role": "user", "images": ["x"]}]}, 400, ""),
            ({"model": "demo", "messages": [{"role": "x", "tool_calls": [1]}]}, 400, "messages[0].tool_calls[0]"),
            ({"messages": MESSAGES}, 400, "model is missing"),
        ],
    )
    def test_the_error_is_a_text(self, running: Gateway, *, body: Any, status: int, reason: str) -> None:
        answer = httpx.post(f"{running.url}/api/chat", json=body, headers=WITH_KEY, trust_env=False)
        assert answer.status_code == status
        assert reason in answer.json()["error"]

    def test_a_key_is_needed(self, running: Gateway) -> None:
        answer = httpx.get(f"{running.url}/api/tags", trust_env=False)
        assert (answer.status_code, type(answer.json()["error"])) == (401, str)


def test_a_stream_that_is_left_frees_its_slot() -> None:
    with gateway(workers=1, ignore_eos=True) as running:
        client = ollama.Client(host=running.url, headers=WITH_KEY, trust_env=False)
        stream: Any = client.chat("demo", messages=MESSAGES, options={"num_predict": 900}, stream=True)
        next(iter(stream))
        assert is_busy(running)
        stream.close()
        wait_until(lambda: not is_busy(running))
        client._client.close()
