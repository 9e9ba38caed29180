"""Which draft is chosen, when it is left out, and what is reported of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llcuda.client import InferResult
from llcuda.engine.draft import (
    DRAFT_OPTIONS,
    NGRAM_MODES,
    Draft,
    DraftReport,
    check_vocabulary,
    choose_draft,
    raise_if_refused,
)
from llcuda.engine.inference import _report_draft
from llcuda.engine.load import Load, start
from llcuda.engine.placement import choose_placement
from llcuda.errors import DraftMismatchError, ModelNotFoundError, OutOfMemoryError, UsageError
from llcuda.models import ModelFile, resolve_model
from llcuda.server import ServerManager
from tests.made_models.tiny_model import write_tiny_model

if TYPE_CHECKING:
    from typing import Any

REFUSED = (
    "0.00.033.262 E spec common_specu: the target and draft vocabs are not compatible",
    "0.00.033.380 E srv    load_model: failed to initialize speculative decoding context: draft model vocab type must",
)


@pytest.fixture(scope="module")
def demo() -> ModelFile:
    return resolve_model("demo")


@pytest.mark.parametrize("mode", NGRAM_MODES)
def test_an_n_gram_mode_needs_no_model(demo: ModelFile, mode: str) -> None:
    draft = choose_draft(mode, demo, progress=False)
    assert (draft.model, draft.list_options(gpu_layers=None)) == (None, {"spec_type": mode})


def test_the_modes_are_those_that_llama_cpp_has() -> None:
    source = Path(__file__).parents[3] / "vendor" / "llama.cpp" / "common" / "speculative.cpp"
    if source.exists():
        assert all(f'{{"{mode}",' in source.read_text() for mode in NGRAM_MODES)


def test_auto_is_the_draft_that_is_known(demo: ModelFile) -> None:
    draft = choose_draft("auto", demo, progress=False)
    assert (draft.asked, draft.spec_type) == ("auto", "draft-simple")
    options = {"spec_type": "draft-simple", "spec_draft_model": resolve_model("demo-draft").path}
    assert draft.list_options(gpu_layers=None) == options
    assert draft.list_options(gpu_layers=7) == options


def test_the_draft_is_kept_off_the_gpu_with_the_model(demo: ModelFile) -> None:
    assert choose_draft("auto", demo, progress=False).list_options(gpu_layers=0)["spec_draft_ngl"] == 0


def test_auto_is_an_n_gram_mode_where_no_draft_is_known(demo: ModelFile) -> None:
    draft = choose_draft("auto", replace(demo, name="some-model", source="path"), progress=False)
    assert draft.list_options(gpu_layers=None) == {"spec_type": "ngram-mod"}


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


class Narrow(ServerManager):
    """Has memory for one model, and starts none."""

    def start_server(self, *_: Any, **options: Any) -> None:
        if options.get("spec_draft_model"):
            raise OutOfMemoryError("there is not enough memory")
        self.options = options


def load_narrowly(demo: ModelFile, *, keep: bool, fallback: str) -> tuple[Narrow, DraftReport]:
    server, draft = Narrow(), choose_draft("auto", demo, progress=False)
    options, placement = draft.list_options(gpu_layers=0), choose_placement("cpu", require_gpu=False)
    report = start(server, Load(demo, placement, options, fallback, draft=draft, keep_draft=keep))
    assert report.steps == ("the draft model is left out",)
    return server, _report_draft(draft, report)


def test_if_memory_is_short_the_draft_is_the_first_thing_to_do_without(
    demo: ModelFile, caplog: pytest.LogCaptureFixture
) -> None:
    server, report = load_narrowly(demo, keep=False, fallback="auto")
    assert {server.options[name] for name in DRAFT_OPTIONS} == {None}
    assert "Trying again: the draft model is left out." in caplog.messages[0]
    assert (report.is_on, report.spec_type, report.model) == (False, "none", "demo-draft")
    assert str(report) == "draft auto, off: there is not enough memory for it beside the model"


@pytest.mark.parametrize(("keep", "fallback"), [(True, "auto"), (False, "error")])
def test_a_draft_that_must_stay_is_not_left_out(*, demo: ModelFile, keep: bool, fallback: str) -> None:
    with pytest.raises(OutOfMemoryError):
        load_narrowly(demo, keep=keep, fallback=fallback)


def answer(*, drafted: int) -> InferResult:
    return InferResult(
        text="", tokens_generated=101, prompt_tokens=1, latency_ms=1.0, time_to_first_token_ms=1.0,
        tokens_per_sec=1.0, finish_reason="stop", generation_ms=1.0,
        draft_tokens=drafted, draft_tokens_accepted=drafted // 2,
    )  # fmt: skip


def test_the_report_has_the_acceptance_of_all_answers() -> None:
    empty = DraftReport("auto", "draft-simple", "demo-draft", is_on=True)
    assert (empty.acceptance, str(empty)) == (None, "draft auto, on, nothing drafted")
    report = empty.add(answer(drafted=60)).add(answer(drafted=0)).add(answer(drafted=40))
    assert (report.draft_tokens, report.draft_tokens_accepted, report.acceptance) == (100, 50, 0.5)
    assert str(report) == "draft auto, on, acceptance 50%"
    assert json.loads(json.dumps(report.to_dict())) == {
        "asked": "auto", "spec_type": "draft-simple", "model": "demo-draft", "is_on": True,
        "draft_tokens": 100, "draft_tokens_accepted": 50, "acceptance": 0.5,
    }  # fmt: skip
