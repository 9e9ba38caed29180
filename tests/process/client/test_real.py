"""Both clients, and the official openai package, against the real llama-server."""

from __future__ import annotations

import enum
import os
import re
import select
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import openai
import pytest

from llcuda.client import InferenceClient
from llcuda.errors import ConnectionFailedError, RequestTimeoutError, ResponseError, SchemaMismatchError
from llcuda.options import OPTIONS
from tests.process.client.twins import CLIENTS
from tests.processes import PATIENCE, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "a-key-for-tests"
MESSAGES: list[Any] = [{"role": "user", "content": "What is 2+2?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Say what the weather is.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@dataclass
class Server:
    url: str
    process: subprocess.Popen[bytes]


@contextmanager
def run_server(binaries: Path, model: Path, log: Path, *options: str) -> Iterator[Server]:
    """Run llama-server on a free port. One thread for each of its jobs: other tests use the machine too."""
    command = [
        str(binaries / "llama-server"), "--model", str(model), "--host", "127.0.0.1", "--port", "0", "--offline",
        "--threads", "1", "--threads-batch", "1", "--ctx-size", "2048", *options,
    ]  # fmt: skip
    environment = {"LLAMA_API_KEY": KEY, "LD_LIBRARY_PATH": str(binaries), "PATH": os.environ["PATH"]}
    with (
        log.open("wb") as sink,
        subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, env=environment, cwd=log.parent) as process,
    ):
        try:
            wait_until(lambda: process.poll() is not None or b"listening on" in log.read_bytes(), timeout=60)
            found = re.search(rb"listening on (http://[0-9.:]+)", log.read_bytes())
            assert found, log.read_text()
            yield Server(found[1].decode(), process)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def server(binaries: Path, demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    options = ["--parallel", "4", "--metrics", "--slot-save-path", str(folder)]
    with run_server(binaries, demo_model, folder / "log", *options) as running:
        yield running


@pytest.fixture(scope="module")
def embedder(binaries: Path, demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = ["--embeddings", "--pooling", "mean"]
    with run_server(binaries, demo_model, tmp_path_factory.mktemp("embedder") / "log", *options) as running:
        yield running


@pytest.fixture(params=sorted(CLIENTS))
def client(request: pytest.FixtureRequest, server: Server) -> Iterator[Any]:
    with CLIENTS[request.param](url=server.url, api_key=KEY, timeout=120) as client:
        yield client


def busy_slots(client: Any) -> int:
    return sum(slot["is_processing"] for slot in client.slots())


# Text


def test_an_answer_has_the_counts_and_times_of_the_server(client: Any) -> None:
    result = client.infer("What is 2+2?", max_tokens=12, temperature=0)
    assert result.text
    assert result.finish_reason in {"stop", "length"}
    assert 1 <= result.tokens_generated <= 12
    prompt = client.apply_template(MESSAGES)
    assert "What is 2+2?" in prompt
    # The server puts the token at the beginning of a text before it, where the model has one.
    assert result.prompt_tokens in {len(client.tokenize(prompt, add_special=special)) for special in (True, False)}
    assert 0 <= result.cached_tokens < result.prompt_tokens
    assert 0 < result.prompt_ms + result.generation_ms < result.latency_ms
    assert 0 < result.time_to_first_token_ms <= result.latency_ms
    assert result.tokens_per_sec > 0
    assert result.model


def test_a_stream_is_the_answer_in_pieces(client: Any) -> None:
    whole = client.infer("What is 2+2?", max_tokens=20, temperature=0)
    with client.infer_stream("What is 2+2?", max_tokens=20, temperature=0) as stream:
        pieces = list(stream)
    assert "".join(pieces) == whole.text == stream.result.text
    assert stream.result.tokens == whole.tokens
    assert len(pieces) > 1


def test_a_conversation_goes_on(client: Any) -> None:
    first = client.chat(MESSAGES, max_tokens=8, temperature=0)
    messages = [*MESSAGES, first.message, {"role": "user", "content": "And 3+3?"}]
    assert client.chat(messages, max_tokens=8).prompt_tokens > first.prompt_tokens
    assert "".join(client.stream_chat(messages, max_tokens=8, temperature=0))


def test_a_completion_continues_text_and_tokens(client: Any) -> None:
    prompt = "What is 2+2?"
    tokens = client.tokenize(prompt)
    assert client.detokenize(tokens).strip() == prompt
    texts = {
        client.complete(tokens, max_tokens=8, temperature=0, cache_prompt=False).text,
        "".join(client.stream_complete(tokens, max_tokens=8, temperature=0, cache_prompt=False)),
    }
    assert len(texts) == 1
    assert client.infer(prompt, raw=True, max_tokens=4).tokens <= 4


def test_options_reach_the_server(client: Any) -> None:
    assert client.infer("Hi", max_tokens=3, ignore_eos=True).tokens == 3
    assert client.infer("Hi", max_tokens=3, ignore_eos=True).finish_reason == "length"
    assert client.infer("Hi", max_tokens=0).tokens <= 1
    seeded = [client.infer("Hi", max_tokens=12, seed=7, temperature=2.0, ignore_eos=True).text for _ in range(2)]
    assert seeded[0] == seeded[1]
    stopped = client.infer("Hi", max_tokens=20, grammar='root ::= "abcdefgh"', stop_sequences=["e"])
    assert (stopped.text, stopped.finish_reason) == ("abcd", "stop")
    assert len(client.infer("Hi", max_tokens=2, n_probs=3, ignore_eos=True).probabilities[0]["top_logprobs"]) == 3
    assert len(client.complete("Hi", max_tokens=2, n_probs=3, ignore_eos=True).probabilities[0]["top_logprobs"]) == 3


def test_every_option_is_one_that_the_server_takes(client: Any) -> None:
    options: dict[str, Any] = {
        "max_tokens": 2, "temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "seed": 0,
        "stop_sequences": ["\n"], "repeat_penalty": 1.1, "repeat_last_n": 64, "presence_penalty": 0.1,
        "frequency_penalty": 0.1, "typical_p": 0.9, "top_n_sigma": 1.0, "dynatemp_range": 0.1, "dynatemp_exponent": 1.0,
        "xtc_probability": 0.1, "xtc_threshold": 0.1, "dry_multiplier": 0.1, "dry_base": 1.75, "dry_allowed_length": 2,
        "dry_penalty_last_n": 10, "dry_sequence_breakers": ["\n"], "mirostat": 0, "mirostat_tau": 5.0,
        "mirostat_eta": 0.1, "min_keep": 1, "n_probs": 1, "n_keep": 0, "t_max_predict_ms": 10_000, "id_slot": -1,
        "cache_prompt": True, "ignore_eos": False, "logit_bias": [[5, -1.0]], "samplers": ["top_k", "temperature"],
        "grammar": "root ::= [a-z]+", "lora": {}, "chat_template_kwargs": {"enable_thinking": False},
        "reasoning_effort": "none", "reasoning_format": "none", "reasoning_budget_tokens": 0, "model": "demo",
    }  # fmt: skip
    assert set(options) == set(OPTIONS)
    assert client.infer("Hi", **options).tokens <= 2
    plain = {name: value for name, value in options.items() if not OPTIONS[name].chat_only}
    assert client.complete("Hi", **plain).tokens <= 2


# Schemas and tools


class Size(enum.Enum):
    SMALL = "small"
    LARGE = "large"


@dataclass
class City:
    name: Literal["Rome", "Paris"]
    size: Size
    people: int | None = None


@pytest.mark.parametrize(
    "kind",
    [
        bool,
        type(None),
        Literal["yes", "no"],
        Literal[1, True, "x"],
        Size,
        City,
        list[City],
        dict[str, bool],
        tuple[bool, Size],
    ],
)
def test_the_server_generates_what_the_type_describes(client: Any, kind: Any) -> None:
    # A weak model can fill a list for ever, so being cut off is no fault of ours.
    may_be_cut_off = kind in {City, list[City], dict[str, bool]}
    with suppress(SchemaMismatchError) if may_be_cut_off else nullcontext():
        result = client.infer("What is 2+2?", schema=kind, max_tokens=150, temperature=0.5)
        assert result.finish_reason == "stop"


def test_a_schema_that_the_server_ignores_is_still_held_against_the_answer(client: Any) -> None:
    # llama-server's grammars know no "not", so it generates whatever else is asked for, and says nothing.
    document = {"type": "boolean", "not": {"type": "boolean"}}
    with pytest.raises(SchemaMismatchError):
        client.infer("What is 2+2?", schema=document, max_tokens=100, temperature=0)


def test_a_json_schema_works_without_a_chat_template_too(client: Any) -> None:
    assert client.complete("x", schema={"enum": ["yes", "no"]}, max_tokens=20).value in {"yes", "no"}


def test_a_tool_is_called_with_arguments(client: Any) -> None:
    messages = [{"role": "user", "content": "What is the weather in Rome?"}]
    result = client.chat(messages, tools=[TOOL], tool_choice="required", max_tokens=200, temperature=0)
    assert result.finish_reason == "tool_calls"
    (call,) = result.tool_calls
    assert call.name == "get_weather"
    assert isinstance(call.arguments["city"], str)
    answered = [*messages, result.message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    assert client.chat(answered, tools=[TOOL], max_tokens=8).tokens > 0


# What else the server does


def test_the_server_tells_about_itself(client: Any) -> None:
    assert client.health() == {"status": "ok"}
    assert client.is_healthy() is True
    assert client.props()["total_slots"] == 4
    assert client.models()[0]["id"]
    assert len(client.slots()) == 4
    client.infer("Hi", max_tokens=2)
    assert client.metrics()["llamacpp:tokens_predicted_total"] >= 2
    assert client.lora_adapters() == []
    client.set_lora_adapters({})


def test_a_slot_is_saved_restored_and_erased(client: Any) -> None:
    client.infer("What is 2+2?", max_tokens=4, id_slot=1)
    saved = client.save_slot(1, "slot.bin")
    assert saved["n_saved"] > 0
    assert client.erase_slot(1)["n_erased"] == saved["n_saved"]
    assert client.restore_slot(1, "slot.bin")["n_restored"] == saved["n_saved"]


def test_embeddings_are_the_floats_that_the_server_has(embedder: Server) -> None:
    texts = ["What is 2+2?", "Rome", "é"]
    with InferenceClient(url=embedder.url, api_key=KEY) as client:
        vectors = client.embed(texts)
        assert [client.embed(text) for text in texts] == [[pytest.approx(vector, abs=1e-4)] for vector in vectors]
    theirs = openai.OpenAI(base_url=f"{embedder.url}/v1", api_key=KEY)
    with theirs:
        rows = theirs.embeddings.create(model="x", input=texts, encoding_format="float").data
    assert [pytest.approx(row.embedding, abs=1e-4) for row in rows] == vectors
    assert all(sum(number * number for number in vector) == pytest.approx(1, abs=1e-3) for vector in vectors)


def test_both_clients_embed_alike(embedder: Server) -> None:
    found = []
    for make in CLIENTS.values():
        with make(url=embedder.url, api_key=KEY) as client:
            found.append(client.embed("What is 2+2?"))
    assert found[0] == [pytest.approx(found[1][0], abs=1e-4)]


def test_documents_are_ranked_by_a_server_that_ranks(binaries: Path, demo_model: Path, tmp_path: Path) -> None:
    with run_server(binaries, demo_model, tmp_path / "log", "--reranking") as running:
        for make in CLIENTS.values():
            with make(url=running.url, api_key=KEY) as client:
                found = client.rerank("capital of Italy", ["Rome", "2+2", "Paris"])
                assert sorted(one.index for one in found) == [0, 1, 2]
                assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
                assert {one.document for one in found} == {"Rome", "2+2", "Paris"}


@pytest.mark.parametrize(
    ("ask", "status", "word"),
    [
        (lambda client: client.embed("x"), 501, "embeddings"),
        (lambda client: client.rerank("x", ["y"]), 501, "rerank"),
        (lambda client: client.infer("x", grammar="root ::= (("), 400, "grammar"),
        (lambda client: client.infer("x " * 3000), 400, "context"),
    ],
)
def test_what_the_server_refuses_is_an_error_with_its_words(client: Any, ask: Any, *, status: int, word: str) -> None:
    with pytest.raises(ResponseError) as caught:
        ask(client)
    assert caught.value.status == status
    assert word in str(caught.value).lower()
    assert caught.value.hint or status == 400  # whose message says it


def test_a_wrong_key_is_refused_with_where_to_get_the_right_one(server: Server) -> None:
    for key in (None, "wrong"):
        with InferenceClient(url=server.url, api_key=key) as client:
            assert client.is_healthy()
            with pytest.raises(ResponseError, match="401") as caught:
                client.infer("Hi")
            assert "api_key" in caught.value.hint


# Cancelling, time-outs, connections


def generate_for_long(client: Any, **options: Any) -> Any:
    return client.infer_stream("Hi", max_tokens=1500, ignore_eos=True, **options)


def test_leaving_a_stream_frees_its_slot(client: Any) -> None:
    stream = generate_for_long(client)
    next(stream)
    assert busy_slots(client) == 1
    stream.close()
    wait_until(lambda: busy_slots(client) == 0)


def test_a_timeout_frees_the_slot(client: Any) -> None:
    with pytest.raises(RequestTimeoutError):
        client.infer("Hi", max_tokens=1500, ignore_eos=True, timeout=0.1)
    wait_until(lambda: busy_slots(client) == 0)


def test_requests_go_on_where_the_server_closes_the_connection(client: Any) -> None:
    # llama-server closes a connection after its hundredth request.
    assert all(client.is_healthy() for _ in range(250))


def test_a_connection_that_the_server_closed_for_being_idle_is_replaced(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llcuda.transport.base_transport.MAX_IDLE_SECONDS", 1e9)
    with InferenceClient(url=server.url, api_key=KEY) as client:
        client.health()
        connection: Any = client._transport._idle[0][1]
        assert select.select([connection.socket], [], [], PATIENCE)[0], "the server has not closed it"
        assert client.health() == {"status": "ok"}


def test_a_batch_uses_every_slot_and_comes_back_in_order(client: Any) -> None:
    prompts = [f"What is {number}+1?" for number in range(12)]
    results = client.batch_infer(prompts, max_tokens=6, temperature=0, cache_prompt=False)
    assert len(results) == 12
    assert all(result.text for result in results)


def test_a_client_is_shared_by_threads(server: Server) -> None:
    with InferenceClient(url=server.url, api_key=KEY) as client, ThreadPoolExecutor(6) as pool:
        sizes = list(
            pool.map(lambda number: client.infer("Hi", max_tokens=number, ignore_eos=True).tokens, range(1, 25))
        )
    assert sizes == list(range(1, 25))


@pytest.mark.parametrize("kind", sorted(CLIENTS))
def test_a_server_that_dies_in_the_middle_of_a_stream_is_an_error(
    binaries: Path, demo_model: Path, *, tmp_path: Path, kind: str
) -> None:
    with (
        run_server(binaries, demo_model, tmp_path / "log") as running,
        CLIENTS[kind](url=running.url, api_key=KEY) as client,
    ):
        stream = generate_for_long(client)
        next(stream)
        running.process.kill()
        with pytest.raises(ConnectionFailedError):
            for _ in stream:
                pass
        running.process.wait(PATIENCE)
        with pytest.raises(ConnectionFailedError):
            client.health()
        assert client.is_healthy() is False


# The official package


def test_the_openai_package_works_against_the_same_server(server: Server) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY) as theirs:
        answer = theirs.chat.completions.create(model="demo", messages=MESSAGES, max_tokens=12, temperature=0)
        stream = theirs.chat.completions.create(
            model="demo", messages=MESSAGES, max_tokens=12, temperature=0, stream=True
        )
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    with InferenceClient(url=server.url, api_key=KEY) as ours:
        text = ours.infer("What is 2+2?", max_tokens=12, temperature=0).text
    assert answer.choices[0].message.content == "".join(pieces) == text
