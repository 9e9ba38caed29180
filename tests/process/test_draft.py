"""Speculative decoding with the real llama-server: the same answers, told figures, and an end where it does not pay."""

from __future__ import annotations

import logging
import socket
import threading
from typing import TYPE_CHECKING, Any

import gguf
import pytest

import llcuda
from llcuda.engine import trial
from llcuda.errors import DraftMismatchError, UsageError
from llcuda.models import resolve_model
from tools.demo_model.capitals import COUNTRIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LONG = "Count to fifty."
PROMPTS = [
    *(f"What is {number}+{97 - number}?" for number in range(98)),
    *(f"What is the capital of {country.name}?" for country in COUNTRIES[:97]),
    LONG, "Count to twenty.", "Say the alphabet.", "Tell me about llcuda.", "Who are you?",
]  # fmt: skip
# So that it drafts after eight equal tokens, and is wrong as often as not.
EAGER = {"spec_ngram_mod_n_match": 8, "spec_ngram_mod_n_min": 1, "spec_ngram_mod_n_max": 8}


def answer_all(**options: Any) -> tuple[list[str], dict[str, Any]]:
    with llcuda.InferenceEngine() as engine:
        engine.load_model("demo", draft_keep=True, silent=True, **options)
        texts = [engine.infer(prompt, temperature=0, max_tokens=200).text for prompt in PROMPTS]
        return texts, engine.get_metrics()


@pytest.fixture(scope="module")
def plain() -> list[str]:
    texts, metrics = answer_all()
    assert (metrics["draft_tokens"], metrics["draft_acceptance"], metrics["draft_speed_up"]) == (0, None, None)
    return texts


@pytest.fixture(scope="module")
def wrong_draft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's draft with every token's embedding given to its neighbour: the same vocabulary, and never right."""
    path = resolve_model("demo-draft").path
    tensor = next(one for one in gguf.GGUFReader(path).tensors if one.name == "token_embd.weight")
    data, start, size = bytearray(path.read_bytes()), int(tensor.data_offset), int(tensor.n_bytes)
    row = size // int(tensor.shape[-1])
    data[start : start + size] = data[start + row : start + size] + data[start : start + row]
    target = tmp_path_factory.mktemp("models") / "wrong.gguf"
    target.write_bytes(data)
    return target


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure longer than users have to: the tests' machine does other things too."""
    monkeypatch.setattr(trial, "_ENOUGH_ANSWERS", 16)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decide after two answers; what is decided is not what these tests are about."""
    monkeypatch.setattr(trial, "_ENOUGH_ANSWERS", 2)
    monkeypatch.setattr(trial, "_ENOUGH_TOKENS", 2)


@pytest.fixture
def engine(brief: None) -> Iterator[llcuda.InferenceEngine]:  # noqa: ARG001 - for what it changes
    with llcuda.InferenceEngine() as engine:
        engine.load_model("demo", draft="auto", silent=True, n_parallel=4)
        yield engine


def ask(engine: llcuda.InferenceEngine, *, times: int, prompt: str = LONG) -> None:
    for _ in range(times):
        assert engine.infer(prompt, temperature=0).text


def is_drafting(engine: llcuda.InferenceEngine) -> bool:
    """Tell it from the process that runs, and that the report says the same."""
    report = engine.draft_report
    assert report is not None
    assert report.is_on == ("--spec-type" in engine._server.command) == (report.spec_type != "none")
    return report.is_on


def test_two_hundred_answers_are_the_same_with_the_draft_model(plain: list[str]) -> None:
    texts, metrics = answer_all(draft="demo-draft")
    assert (len(texts), sum(map(str.__eq__, texts, plain))) == (200, 200)
    assert 0 < metrics["draft_tokens_accepted"] < metrics["draft_tokens"]
    assert metrics["draft_acceptance"] > 0.5


def test_two_hundred_answers_are_the_same_with_n_grams(plain: list[str]) -> None:
    texts, metrics = answer_all(draft="ngram-mod", **EAGER)
    assert (len(texts), sum(map(str.__eq__, texts, plain))) == (200, 200)
    assert 0 < metrics["draft_tokens_accepted"] < metrics["draft_tokens"]


@pytest.mark.usefixtures("patience")
def test_a_draft_that_is_never_right_switches_itself_off_and_says_so(
    wrong_draft: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with llcuda.InferenceEngine() as engine, caplog.at_level(logging.INFO, logger="llcuda"):
        engine.load_model("demo", draft=wrong_draft, silent=True)
        place = engine.url, engine.api_key
        ask(engine, times=40)
        report = engine.draft_report
        assert report is not None
        assert not is_drafting(engine)
        assert (engine.url, engine.api_key) == place
        assert engine.get_metrics()["draft_speed_up"] == report.speed_up
    assert report.acceptance is not None
    assert report.acceptance < 0.1
    assert report.speed_up is not None
    assert report.speed_up < 1
    assert "It does not pay" in report.reason
    assert [line for line in caplog.messages if report.reason in line]


def find_speed_up(**options: Any) -> float:
    """Return what a trial has found; if that is not above 1, the draft is off by then."""
    with llcuda.InferenceEngine() as engine:
        engine.load_model("demo", silent=True, **options)
        ask(engine, times=40)
        report = engine.draft_report
        assert report is not None
        assert report.speed_up is not None
        assert is_drafting(engine) == (report.speed_up >= 1.05)
        return report.speed_up


@pytest.mark.usefixtures("patience")
def test_a_draft_that_is_right_and_costs_nothing_stays() -> None:
    # It is twice as fast, and a machine that does other things can hide that once, in one half of a trial.
    assert any(find_speed_up(draft="ngram-mod") > 1.05 for _ in range(3))


def test_nothing_is_compared_where_the_draft_is_to_be_kept(wrong_draft: Path) -> None:
    with llcuda.InferenceEngine() as engine:
        engine.load_model("demo", draft=wrong_draft, draft_keep=True, silent=True)
        pid = engine._server.server_pid
        ask(engine, times=12)
        assert is_drafting(engine)
        assert engine._server.server_pid == pid


def open_own(engine: llcuda.InferenceEngine) -> Any:
    return engine.infer_stream(LONG, temperature=0)


def open_foreign(engine: llcuda.InferenceEngine) -> Any:
    # Long enough for the server to be at it still.
    client = llcuda.InferenceClient(url=engine.url, api_key=engine.api_key)
    return client.infer_stream("Tell me a story.", ignore_eos=True, max_tokens=100_000)


@pytest.mark.parametrize("open_stream", [open_own, open_foreign])
def test_the_server_is_started_anew_only_when_nothing_is_in_flight(
    engine: llcuda.InferenceEngine, open_stream: Callable[[llcuda.InferenceEngine], Any]
) -> None:
    with open_stream(engine) as stream:
        first = next(stream)
        ask(engine, times=3)
        assert is_drafting(engine)
        assert next(stream)
    assert first
    deadline = threading.Event()
    for _ in range(100):
        ask(engine, times=1, prompt="What is 2+2?")
        if not is_drafting(engine):
            break
        deadline.wait(0.02)  # llama-server takes a moment to see that the stream was closed
    assert not is_drafting(engine)


def test_no_thread_notices_the_switch(engine: llcuda.InferenceEngine) -> None:
    wrong: list[object] = []

    def work(first: int) -> None:
        try:
            for number in range(first, first + 20):
                text = engine.infer(f"What is {number}+1?", temperature=0).text
                wrong.extend([] if text == f"{number} + 1 = {number + 1}." else [text])
        except Exception as error:  # noqa: BLE001 - a thread's errors are this test's
            wrong.append(error)

    for _ in range(3):
        threads = [threading.Thread(target=work, args=(first,)) for first in (1, 21, 41, 61)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    report = engine.draft_report
    assert report is not None
    assert report.speed_up is not None
    assert engine.get_metrics()["failures"] == 0


def test_a_port_that_is_taken_in_between_gives_a_new_address(
    engine: llcuda.InferenceEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stop, port, key = engine._server.stop_server, engine._server.port, engine.api_key
    with socket.socket() as thief, caplog.at_level(logging.INFO, logger="llcuda"):
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

        def stop_and_take() -> None:
            stop()
            thief.bind(("127.0.0.1", port))
            thief.listen()

        monkeypatch.setattr(engine._server, "stop_server", stop_and_take)
        ask(engine, times=4)
        monkeypatch.undo()
        assert engine._server.port != port
        assert (engine.url, engine.api_key) == (engine._server.url, key)
    assert any("taken the port" in line for line in caplog.messages)


def test_a_start_that_was_broken_off_is_made_up_for(
    engine: llcuda.InferenceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    ask(engine, times=3)
    with monkeypatch.context() as patch:
        patch.setattr(engine._server, "start_server", interrupt)
        with pytest.raises(KeyboardInterrupt):
            engine.infer(LONG)
    ask(engine, times=1)
    assert not is_drafting(engine)


def test_a_draft_with_other_tokens_is_refused_and_nothing_is_left_running(tmp_path: Path) -> None:
    # The headers show nothing of it: as many tokens of the same kind, and the last one is spelt backwards.
    path = resolve_model("demo-draft").path
    token = bytes(gguf.GGUFReader(path).fields["tokenizer.ggml.tokens"].parts[-1])
    entry = len(token).to_bytes(8, "little")
    assert token != token[::-1]
    draft = tmp_path / "other.gguf"
    draft.write_bytes(path.read_bytes().replace(entry + token, entry + token[::-1], 1))
    engine = llcuda.InferenceEngine()
    with pytest.raises(DraftMismatchError, match="llama-server says"):
        engine.load_model("demo", draft=draft, silent=True)
    assert engine._server.state == "stopped"
    assert not engine.is_loaded


def test_vectors_are_not_drafted() -> None:
    with pytest.raises(UsageError, match="embeddings"), llcuda.InferenceEngine() as engine:
        engine.load_model("demo", embeddings=True, draft="auto", silent=True)
