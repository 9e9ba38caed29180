"""Which draft is chosen, and when it is switched off: both are functions of values."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llcuda.client import InferResult
from llcuda.engine.draft import NGRAM_MODES, Draft, check_vocabulary, choose_draft, raise_if_refused
from llcuda.engine.load import Load, start
from llcuda.engine.placement import choose_placement
from llcuda.engine.speculation import Speculation
from llcuda.engine.trial import Speed, Trial, advance, pays, switch
from llcuda.errors import DraftMismatchError, ModelNotFoundError, OutOfMemoryError, UsageError
from llcuda.models import ModelFile, resolve_model
from llcuda.server import ServerManager
from tests.tiny_model import write_tiny_model

if TYPE_CHECKING:
    from typing import Any

ANSWER = Speed(answers=1, tokens=100.0, seconds=0.1, drafted=60, accepted=30)
PLAIN = Speed(answers=1, tokens=100.0, seconds=0.2)
REFUSED = (
    "0.00.033.262 E spec common_specu: the target and draft vocabs are not compatible",
    "0.00.033.380 E srv    load_model: failed to initialize speculative decoding context: draft model vocab type must",
)


@pytest.fixture(scope="module")
def demo() -> ModelFile:
    return resolve_model("demo")


def feed(trial: Trial, answer: Speed, *, times: int) -> Trial:
    for _ in range(times):
        trial = advance(trial, answer)
    return trial


def compare(with_draft: Speed, without: Speed) -> Trial:
    """Carry a trial through to its verdict; nine answers, of which the first of a start does not count."""
    trial = switch(feed(Trial(), with_draft, times=9))
    return feed(trial, without, times=9)


# Measured with llama-server b11434 on two busy cores, "Count to fifty." by the demo model: its own draft with 96 %
# accepted, and ngram-mod on a text that it has seen.
@pytest.mark.parametrize(
    ("with_draft", "without", "is_wanted"),
    [
        (Speed(8, 1528, 0.3705, 1176, 1128), Speed(8, 1528, 0.3342), False),
        (Speed(8, 1528, 0.1913, 1416, 1416), Speed(8, 1528, 0.4858), True),
    ],
)
def test_the_faster_is_chosen(*, with_draft: Speed, without: Speed, is_wanted: bool) -> None:
    assert pays(with_draft, without) is is_wanted


def test_a_draft_that_brings_less_than_its_memory_is_worth_does_not_pay() -> None:
    plain = Speed(8, 1000, 1.0)
    assert not pays(Speed(8, 1000, 1 / 1.04), plain)
    assert pays(Speed(8, 1000, 1 / 1.06), plain)


def test_a_trial_begins_with_the_draft_and_is_first_due_when_enough_is_measured() -> None:
    trial = feed(Trial(), ANSWER, times=8)
    assert (trial.is_on, trial.is_due, trial.with_draft.answers) == (True, False, 7)
    trial = advance(trial, ANSWER)
    assert (trial.is_on, trial.is_due, trial.is_settled) == (True, True, False)


def test_short_answers_take_more_of_them() -> None:
    trial = feed(Trial(), replace(ANSWER, tokens=10.0), times=52)
    assert not trial.is_due
    assert advance(trial, replace(ANSWER, tokens=10.0)).is_due


def test_what_is_answered_before_the_switch_counts_for_neither_side() -> None:
    trial = feed(Trial(), ANSWER, times=9)
    assert feed(trial, ANSWER, times=100) == trial


def test_a_draft_that_pays_comes_back_and_stays() -> None:
    trial = compare(ANSWER, PLAIN)
    assert (trial.is_on, trial.is_due, trial.is_settled) == (False, True, True)
    trial = feed(switch(trial), PLAIN, times=100)
    assert (trial.is_on, trial.is_due) == (True, False)
    assert trial.speed_up == pytest.approx(2.0)


def test_a_draft_that_does_not_pay_stays_away() -> None:
    trial = feed(compare(replace(ANSWER, seconds=0.4), PLAIN), ANSWER, times=100)
    assert (trial.is_on, trial.is_due, trial.is_settled) == (False, False, True)
    assert trial.speed_up == pytest.approx(0.5)


def test_where_nothing_was_drafted_there_is_nothing_to_judge() -> None:
    trial = feed(Trial(), PLAIN, times=100)
    assert (trial.is_on, trial.is_due) == (True, False)
    assert feed(trial, ANSWER, times=9).is_due


def test_no_speed_up_is_claimed_before_it_is_measured() -> None:
    assert Trial().speed_up is None
    assert switch(feed(Trial(), ANSWER, times=9)).speed_up is None


@pytest.mark.parametrize("mode", NGRAM_MODES)
def test_an_n_gram_mode_needs_no_model(demo: ModelFile, mode: str) -> None:
    draft = choose_draft(mode, demo, progress=False)
    assert (draft.model, draft.options) == (None, {"spec_type": mode})


def test_the_modes_are_those_that_llama_cpp_has() -> None:
    source = Path(__file__).parents[2] / "vendor" / "llama.cpp" / "common" / "speculative.cpp"
    if source.exists():
        assert all(f'{{"{mode}",' in source.read_text() for mode in NGRAM_MODES)


def test_auto_is_the_draft_that_is_known(demo: ModelFile) -> None:
    draft = choose_draft("auto", demo, progress=False)
    assert (draft.asked, draft.spec_type) == ("auto", "draft-simple")
    assert draft.options == {"spec_type": "draft-simple", "spec_draft_model": resolve_model("demo-draft").path}


def test_auto_is_an_n_gram_mode_where_no_draft_is_known(demo: ModelFile) -> None:
    draft = choose_draft("auto", replace(demo, name="some-model", source="path"), progress=False)
    assert draft.options == {"spec_type": "ngram-mod"}


def test_a_draft_of_another_kind_is_the_callers_word(demo: ModelFile) -> None:
    assert choose_draft(demo.path, demo, spec_type="draft-eagle3", progress=False).spec_type == "draft-eagle3"


def test_an_unknown_mode_and_an_unknown_model_are_named(demo: ModelFile) -> None:
    with pytest.raises(UsageError, match="ngram-foo") as caught:
        choose_draft("ngram-foo", demo, progress=False)
    assert "ngram-mod" in caught.value.hint
    with pytest.raises(ModelNotFoundError, match="demo-drift"):
        choose_draft("demo-drift", demo, progress=False)


def test_another_tokenizer_is_refused_before_anything_is_loaded(demo: ModelFile, tmp_path: Path) -> None:
    with pytest.raises(DraftMismatchError, match="tokenizer") as caught:
        choose_draft(write_tiny_model(tmp_path / "tiny.gguf"), demo, progress=False)
    assert "ngram-mod" in caught.value.hint


@pytest.mark.parametrize(("size", "fits"), [(768 + 128, True), (768 + 129, False), (768 - 129, False)])
def test_vocabularies_may_differ_by_what_llama_server_lets_pass(*, demo: ModelFile, size: int, fits: bool) -> None:
    other = replace(demo.info, vocabulary_size=size)
    if fits:
        check_vocabulary(demo.info, other, name="other")
        return
    with pytest.raises(DraftMismatchError, match=f"{size} tokens, the model's 768"):
        check_vocabulary(demo.info, other, name="other")


def test_a_draft_that_llama_server_goes_on_without_is_an_error() -> None:
    draft = Draft("auto", "draft-simple")
    raise_if_refused(draft, ["0.00.078.231 I srv    load_model: speculative decoding context initialized"])
    with pytest.raises(DraftMismatchError, match="vocab type must"):
        raise_if_refused(draft, REFUSED)


class Recorder(ServerManager):
    """Takes note of what is to be started, and starts nothing."""

    def start_server(self, *_: Any, **options: Any) -> None:
        self.options = options


def started_with(speculation: Speculation, demo: ModelFile, **options: Any) -> dict[str, Any]:
    server = Recorder()
    placement = choose_placement("cpu", require_gpu=False)
    start(server, Load(demo, placement, options, "error", silent=True, speculation=speculation))
    return server.options


def test_the_draft_is_kept_off_the_gpu_with_the_model(demo: ModelFile) -> None:
    speculation = Speculation(choose_draft("auto", demo, progress=False), keep=False)
    assert started_with(speculation, demo, gpu_layers=0)["spec_draft_ngl"] == 0
    assert "spec_draft_ngl" not in started_with(speculation, demo, gpu_layers=7)


class Narrow(Recorder):
    """Has memory for one model."""

    def start_server(self, *_: Any, **options: Any) -> None:
        if options.get("spec_draft_model"):
            raise OutOfMemoryError("there is not enough memory")
        super().start_server(**options)


def test_where_memory_is_short_the_draft_is_the_first_thing_to_do_without(
    demo: ModelFile, caplog: pytest.LogCaptureFixture
) -> None:
    speculation = Speculation(choose_draft("auto", demo, progress=False), keep=False)
    load = Load(demo, choose_placement("cpu", require_gpu=False), {}, "auto", silent=True, speculation=speculation)
    report = start(Narrow(), load)
    assert report.steps == ("the draft model is left out",)
    assert "Trying again: the draft model is left out." in caplog.messages[0]
    told = speculation.report()
    assert (told.is_on, told.reason) == (False, "There is not enough memory for it beside the model.")
    assert not speculation.is_due


@pytest.mark.parametrize(("keep", "fallback"), [(True, "auto"), (False, "error")])
def test_a_draft_that_must_stay_is_not_left_out(*, demo: ModelFile, keep: bool, fallback: str) -> None:
    speculation = Speculation(choose_draft("auto", demo, progress=False), keep=keep)
    load = Load(demo, choose_placement("cpu", require_gpu=False), {}, fallback, silent=True, speculation=speculation)
    with pytest.raises(OutOfMemoryError):
        start(Narrow(), load)
    assert speculation.report().is_on


def answer(*, drafted: int, milliseconds: float) -> InferResult:
    return InferResult(
        text="", tokens_generated=101, prompt_tokens=1, latency_ms=1.0, time_to_first_token_ms=1.0,
        tokens_per_sec=100 / milliseconds * 1e3, finish_reason="stop", generation_ms=milliseconds,
        draft_tokens=drafted, draft_tokens_accepted=drafted // 2,
    )  # fmt: skip


def test_a_decision_is_told_once_and_the_report_has_its_figures(demo: ModelFile) -> None:
    speculation = Speculation(choose_draft("auto", demo, progress=False), keep=False)
    told = [speculation.record(answer(drafted=60, milliseconds=400)) for _ in range(12)]
    assert told.count(True) == 1
    assert started_with(speculation, demo)["spec_type"] is None
    speculation.switch()
    assert [speculation.record(answer(drafted=0, milliseconds=200)) for _ in range(12)].count(True) == 1
    report = speculation.report()
    assert (report.is_on, report.spec_type, report.model) == (False, "none", "demo-draft")
    assert (report.draft_tokens, report.acceptance) == (720, 0.5)
    assert report.speed_up == pytest.approx(0.5)
    assert "does not pay: 250.0 tokens/s with it and 500.0 without" in report.reason
    assert json.loads(json.dumps(report.to_dict())) == dataclasses.asdict(report)
    assert str(report).startswith("draft auto, off, acceptance 50%. It does not pay")


def test_a_draft_that_is_to_be_kept_is_not_tried(demo: ModelFile) -> None:
    speculation = Speculation(choose_draft("auto", demo, progress=False), keep=True)
    assert not any(speculation.record(answer(drafted=60, milliseconds=400)) for _ in range(100))
    report = speculation.report()
    assert (report.is_on, report.reason, report.speed_up) == (True, "It is kept on, as was asked for.", None)
