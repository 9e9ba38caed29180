"""The engine with the real llama-server and the demo model: the contract's Python section, line by line."""

from __future__ import annotations

import gc
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

import llcuda
from llcuda.errors import (
    ModelNotFoundError,
    ResponseError,
    SchemaMismatchError,
    ServerExitedError,
    UsageError,
)
from tests.processes import is_gone, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def engine() -> Iterator[llcuda.InferenceEngine]:
    with llcuda.InferenceEngine() as engine:
        engine.load_model("demo", n_parallel=4)
        yield engine


def test_the_three_lines_answer() -> None:
    engine = llcuda.InferenceEngine()
    engine.load_model("demo")
    result = engine.infer("What is 2+2?")
    engine.unload_model()
    assert "4" in result.text


def test_infer_takes_the_options_and_fills_the_result_of_the_contract(engine: llcuda.InferenceEngine) -> None:
    result = engine.infer(
        "What is 2+2?", max_tokens=50, temperature=0.7, top_p=0.9, top_k=40, seed=0, stop_sequences=None
    )
    assert isinstance(result.text, str)
    assert result.tokens == result.tokens_generated > 0
    assert result.latency_ms > 0
    assert result.tokens_per_sec > 0


def test_a_seed_makes_sampling_repeatable(engine: llcuda.InferenceEngine) -> None:
    answers = {engine.infer("Tell me something.", temperature=1.0, seed=7, max_tokens=16).text for _ in range(3)}
    assert len(answers) == 1


def test_max_tokens_limits_the_answer(engine: llcuda.InferenceEngine) -> None:
    result = engine.infer("What is the capital of France?", max_tokens=2, temperature=0)
    assert result.tokens_generated == 2
    assert result.finish_reason == "length"


def test_a_stop_sequence_ends_the_answer_and_is_left_out(engine: llcuda.InferenceEngine) -> None:
    whole = engine.infer("What is 12+30?", temperature=0).text
    cut = engine.infer("What is 12+30?", temperature=0, stop_sequences=["="]).text
    assert whole.startswith(cut)
    assert "=" not in cut


def test_the_stream_is_the_answer_in_pieces(engine: llcuda.InferenceEngine) -> None:
    whole = engine.infer("What is the capital of Japan?", temperature=0).text
    with engine.infer_stream("What is the capital of Japan?", temperature=0) as stream:
        pieces = list(stream)
    assert len(pieces) > 1
    assert "".join(pieces) == whole == stream.result.text


def test_closing_a_stream_early_frees_the_slot(engine: llcuda.InferenceEngine) -> None:
    with engine.infer_stream("Count to twenty.", temperature=0) as stream:
        next(iter(stream))
    wait_until(lambda: not any(slot["is_processing"] for slot in engine.client.slots()))


def test_batch_infer_keeps_the_order(engine: llcuda.InferenceEngine) -> None:
    prompts = [f"What is {number}+{number}?" for number in range(12)]
    answers = engine.batch_infer(prompts, temperature=0)
    assert [str(2 * number) in answer.text for number, answer in enumerate(answers)] == [True] * len(prompts)


def test_metrics_count_what_was_asked_and_can_be_reset(engine: llcuda.InferenceEngine) -> None:
    engine.reset_metrics()
    for _ in range(5):
        engine.infer("What is 2+2?", temperature=0)
    with engine.infer_stream("What is 3+3?", temperature=0) as stream:
        list(stream)
    metrics = engine.get_metrics()
    assert metrics["requests"] == 6
    assert metrics["failures"] == 0
    assert metrics["tokens_generated"] > 0
    assert 0 < metrics["latency_ms"]["p50"] <= metrics["latency_ms"]["p95"] <= metrics["latency_ms"]["p99"]
    engine.reset_metrics()
    assert engine.get_metrics()["requests"] == 0


def test_a_failed_request_is_counted(engine: llcuda.InferenceEngine) -> None:
    engine.reset_metrics()
    with pytest.raises(ResponseError):
        engine.infer("x " * 20_000)
    assert engine.get_metrics()["failures"] == 1


def test_chat_remembers_the_conversation(engine: llcuda.InferenceEngine) -> None:
    messages = [
        {"role": "user", "content": "What is 40+2?"},
        {"role": "assistant", "content": "40 + 2 = 42."},
        {"role": "user", "content": "What is the capital of Italy?"},
    ]
    assert "Rome" in engine.chat(messages, temperature=0).text


def test_a_schema_gives_a_checked_value(engine: llcuda.InferenceEngine) -> None:
    schema = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}
    result = engine.infer("What is 23+45? Answer in JSON.", schema=schema, temperature=0)
    assert result.value == {"answer": 68}


def test_an_answer_that_was_cut_off_fails_closed(engine: llcuda.InferenceEngine) -> None:
    schema = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}
    with pytest.raises(SchemaMismatchError) as caught:
        engine.infer("What is 23+45? Answer in JSON.", schema=schema, temperature=0, max_tokens=2)
    assert caught.value.text


def test_an_engine_attaches_to_a_server_that_runs(engine: llcuda.InferenceEngine) -> None:
    with llcuda.InferenceEngine(server_url=engine.url, api_key=engine.api_key) as attached:
        assert attached.is_loaded
        assert attached.check_server()
        assert "4" in attached.infer("What is 2+2?", temperature=0).text
    assert engine.check_server(), "leaving an attached engine must not stop the server"


def test_an_attached_engine_refuses_to_load(engine: llcuda.InferenceEngine) -> None:
    attached = llcuda.InferenceEngine(server_url=engine.url, api_key=engine.api_key)
    with pytest.raises(UsageError, match="attached"):
        attached.load_model("demo")


def test_nobody_without_the_key_is_answered(engine: llcuda.InferenceEngine) -> None:
    stranger = llcuda.InferenceEngine(server_url=engine.url)
    with pytest.raises(ResponseError) as caught:
        stranger.infer("What is 2+2?")
    assert caught.value.status == 401
    assert "key" in caught.value.hint


def test_an_empty_engine_says_what_to_do() -> None:
    engine = llcuda.InferenceEngine()
    assert not engine.is_loaded
    with pytest.raises(UsageError, match="no model is loaded"):
        engine.infer("What is 2+2?")


def test_a_wrong_model_name_suggests_near_ones() -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        llcuda.InferenceEngine().load_model("gemma-3-1b-Q4_K_N")
    assert "gemma-3-1b-Q4_K_M" in caught.value.suggestions


def test_an_option_that_llama_server_does_not_know_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no_such_option"), llcuda.InferenceEngine() as engine:
        engine.load_model("demo", no_such_option=1)


def test_loading_again_replaces_the_server() -> None:
    with llcuda.InferenceEngine() as engine:
        engine.load_model("demo")
        first = engine.url
        engine.load_model("demo", ctx_size=256)
        assert engine.url != first
        assert engine.infer("What is 2+2?").text


def test_the_server_ends_when_the_engine_is_collected() -> None:
    engine = llcuda.InferenceEngine()
    engine.load_model("demo")
    pid = engine._server.pid  # the process is what this test is about
    assert pid is not None
    del engine
    gc.collect()
    wait_until(lambda: is_gone(pid))


def test_a_forked_process_leaves_the_engine_to_its_parent() -> None:
    with llcuda.InferenceEngine() as engine:
        engine.load_model("demo")
        pid = os.fork()
        if pid == 0:
            engine.__exit__(None, None, None)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert "4" in engine.infer("What is 2+2?", temperature=0).text


def test_a_server_that_dies_is_named_as_the_cause() -> None:
    with llcuda.InferenceEngine() as engine:
        engine.load_model("demo")
        pid = engine._server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: is_gone(pid))
        with pytest.raises(ServerExitedError):
            engine.infer("What is 2+2?")
        assert not engine.is_loaded


def tell_a_long_story(engine: llcuda.InferenceEngine, *, streamed: bool) -> None:
    options: dict[str, Any] = {"max_tokens": 8000, "ignore_eos": True}
    if streamed:
        list(engine.infer_stream("Tell me a story.", **options))
    else:
        engine.infer("Tell me a story.", **options)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_server_that_dies_in_the_middle_of_an_answer_is_named_as_the_cause(*, streamed: bool) -> None:
    with llcuda.InferenceEngine() as engine:
        engine.load_model("demo", ctx_size=8192)
        pid = engine._server.server_pid
        assert pid is not None
        crash = threading.Timer(0.1, os.kill, [pid, signal.SIGABRT])
        crash.start()
        with pytest.raises(ServerExitedError, match="SIGABRT"):
            tell_a_long_story(engine, streamed=streamed)
        crash.join()
        assert engine.get_metrics()["failures"] == 1


def test_one_engine_serves_several_threads(engine: llcuda.InferenceEngine) -> None:
    answers: dict[int, str] = {}

    def ask(number: int) -> None:
        answers[number] = engine.infer(f"What is {number}+1?", temperature=0).text

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(str(number + 1) in answers[number] for number in range(8))


def test_embeddings_are_lists_of_floats() -> None:
    with llcuda.InferenceEngine() as engine:
        engine.load_model("demo", embeddings=True)
        vectors = engine.embed(["Paris", "Rome"])
    assert len(vectors) == 2
    assert all(isinstance(number, float) for vector in vectors for number in vector)


def test_quick_infer_returns_the_text() -> None:
    assert "4" in llcuda.quick_infer("What is 2+2?", model="demo")


def test_the_environment_chooses_threads_and_layers_where_the_call_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMACPP_N_THREADS", "2")
    monkeypatch.setenv("LLAMACPP_N_GPU_LAYERS", "0")
    with llcuda.InferenceEngine() as engine:
        engine.load_model("demo", gpu_layers=1)
        command = " ".join(engine._server.command)
    assert "--threads 2" in command
    assert "--gpu-layers 1" in command


def test_the_environment_of_the_caller_is_left_alone() -> None:
    before = dict(os.environ)
    llcuda.quick_infer("What is 2+2?")
    assert dict(os.environ) == before


def test_the_installer_of_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLCUDA_HOME", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    installer = llcuda.BinaryInstaller(cache_dir=None)
    assert not installer.is_installed()
    paths = installer.get_binary_paths()
    assert set(paths) == {"llama_bin", "llama_lib", "nccl_lib"}
    assert paths["llama_bin"] is not None
    assert (paths["llama_bin"] / "llama-server").exists()
    with pytest.raises(llcuda.LlcudaError):
        installer.download_binary(force=False)
    assert list(tmp_path.iterdir()) == []
