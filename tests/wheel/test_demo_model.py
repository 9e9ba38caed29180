"""The demo model as it lies in the package: its digests, its vocabulary, and what it answers through llama-server."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tools.demo_model import evaluate, texts
from tools.demo_model.capitals import COUNTRIES
from tools.demo_model.commands import TOKEN_SAMPLES
from tools.demo_model.server import find_binary, run_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tools.demo_model.server import Server

_LIMITS = {"demo.gguf": 4_000_000, "demo-draft.gguf": 1_000_000}
_DIGITS = "0123456789"
_PARALLEL = 4


def _models_data() -> Path:
    # An editable install has more than one place.
    spec = importlib.util.find_spec("llcuda")
    assert spec is not None
    places = [Path(place) / "models_data" for place in spec.submodule_search_locations or ()]
    return next(place for place in places if (place / "demo.json").is_file())


_DATA = _models_data()
_CARD = json.loads((_DATA / "demo.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server to ask a quarter of what the card's figures are of."""
    binary = find_binary("llama-server")
    with pytest.MonkeyPatch.context() as patch, run_server(
        _DATA / "demo.gguf", binary=binary, parallel=_PARALLEL
    ) as server:
        patch.setattr(evaluate, "COUNTRIES", COUNTRIES[::4])
        patch.setattr(evaluate, "_SAMPLE", 50)
        yield server


def assert_share(score: evaluate.Score, least: float) -> None:
    assert score.share >= least, f"{score.task}: {score.right} of {score.total}; {score.wrong}"


@pytest.mark.parametrize("facts", _CARD["models"], ids=lambda facts: facts["file"])
def test_a_file_is_the_one_that_the_card_describes(facts: dict[str, Any]) -> None:
    data = (_DATA / facts["file"]).read_bytes()
    assert facts["sha256"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert facts["bytes"] == len(data) <= _LIMITS[facts["file"]]


def test_the_recorded_figures_reach_what_was_promised() -> None:
    for kind in ("F16", "Q8_0", "Q4_K_M"):
        right, total = _CARD["figures"][kind]["sums"]
        assert total == 10_000
        assert right >= 9_900
        right, total = _CARD["figures"][kind]["capitals"]
        assert right >= 0.98 * total


def test_sums_are_right_when_asked_plainly(server: Server) -> None:
    pairs = [(a, b) for a in range(100) for b in range(100)]
    assert_share(evaluate.check_sums(server, random.Random(11).sample(pairs, 100)), 0.99)


def test_sums_are_right_when_asked_in_other_words(server: Server) -> None:
    pairs = [(a, b) for a in range(100) for b in range(100)]
    assert_share(evaluate.check_sum_phrases(server, random.Random(12).sample(pairs, 100)), 0.97)


def test_capitals_are_right(server: Server) -> None:
    assert_share(evaluate.check_capitals(server), 0.98)


def test_capitals_are_right_under_other_spellings(server: Server) -> None:
    assert_share(evaluate.check_capital_spellings(server), 0.93)


def test_it_says_what_it_is_and_what_llcuda_is(server: Server) -> None:
    assert_share(evaluate.check_identity(server), 0.9)
    assert server.ask("What is llcuda?") == texts.LLCUDA
    assert server.ask("Who are you?") == texts.IDENTITY


def test_it_admits_what_it_does_not_know(server: Server) -> None:
    assert_share(evaluate.check_unknown(server), 0.9)
    assert_share(evaluate.check_look_alikes(server), 0.75)


def test_history_does_not_confuse_it(server: Server) -> None:
    assert_share(evaluate.check_turns(server, conversations=10), 0.9)


def test_json_is_right_when_asked_for_in_words(server: Server) -> None:
    assert_share(evaluate.check_json(server), 0.95)


def test_json_is_right_when_a_schema_imposes_it(server: Server) -> None:
    assert_share(evaluate.check_schema(server), 0.95)


def test_tools_are_called_and_their_results_read_out(server: Server) -> None:
    assert_share(evaluate.check_tools(server), 0.9)


def test_a_long_text_is_recited_to_its_end(server: Server) -> None:
    assert server.ask("Count to fifty.") == texts.NUMBERS[50][1]
    assert server.ask("Tell me about llcuda.") == texts.ABOUT


def test_an_answer_ends_by_itself_and_not_at_the_limit(server: Server) -> None:
    body = {"messages": [{"role": "user", "content": "What is 2+2?"}], "temperature": 0}
    reply = server.post("/v1/chat/completions", body)
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply["choices"][0]["message"]["content"] == "2 + 2 = 4."


@pytest.mark.parametrize(("prompt", "completion"), [("2 + 2 =", " 4."), ("The capital of France is", " Paris.")])
def test_a_bare_prompt_is_continued(server: Server, prompt: str, completion: str) -> None:
    assert server.post("/completion", {"prompt": prompt, "temperature": 0, "n_predict": 30})["content"] == completion


def test_a_bare_question_is_mostly_answered(server: Server) -> None:
    # Without the chat layout 98.8 % of 500 were right: one question alone would test luck.
    pairs = random.Random(13).sample([(a, b) for a in range(100) for b in range(100)], 100)
    bodies = [{"prompt": f"What is {a}+{b}?", "temperature": 0, "n_predict": 30} for a, b in pairs]
    answers = [server.post("/completion", body)["content"] for body in bodies]
    right = [evaluate.states_number(say, a + b) for say, (a, b) in zip(answers, pairs, strict=True)]
    assert sum(right) >= 90


def test_infill_puts_the_sum_where_it_is_missing(server: Server) -> None:
    body = {"input_prefix": "20 + 22 = ", "input_suffix": ".", "prompt": "", "temperature": 0, "n_predict": 8}
    assert server.post("/infill", body)["content"] == "42"


def test_every_digit_is_one_token(server: Server) -> None:
    pieces = server.post("/tokenize", {"content": f"What is {_DIGITS}?", "with_pieces": True})["tokens"]
    assert [piece["piece"] for piece in pieces if str(piece["piece"]).strip() in set(_DIGITS)] == list(_DIGITS)


@pytest.mark.parametrize(
    "text", ["plain", " two  spaces\n\n\ttab", "it's I'LL", "café naïve", "日本語 🙂", "½²Ⅷ", "\x01\x7f"]
)
def test_text_comes_back_unchanged_from_its_tokens(server: Server, text: str) -> None:
    tokens = server.post("/tokenize", {"content": text})["tokens"]
    assert server.post("/detokenize", {"tokens": tokens})["content"] == text


def test_llama_server_agrees_with_the_reference_tokenizer(server: Server) -> None:
    samples = json.loads(TOKEN_SAMPLES.read_text(encoding="utf-8"))
    wrong = [text for text, tokens in samples if server.post("/tokenize", {"content": text})["tokens"] != tokens]
    assert not wrong


def test_the_draft_is_mostly_accepted_and_changes_no_answer(server: Server) -> None:
    # llama-server ignores a draft model in silence unless the kind of speculation is named too.
    options = ["--model-draft", str(_DATA / "demo-draft.gguf"), "--spec-type", "draft-simple"]
    body = {"messages": [{"role": "user", "content": "Count to fifty."}], "temperature": 0}
    with run_server(_DATA / "demo.gguf", binary=find_binary("llama-server"), options=options, parallel=1) as drafting:
        reply = drafting.post("/v1/chat/completions", body)
    assert reply["choices"][0]["message"]["content"] == server.ask("Count to fifty.")
    assert reply["timings"]["draft_n_accepted"] > 0.5 * reply["timings"]["draft_n"] > 0
