"""Which draft a model gets, as llama-server's options, and what it brings."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from llcuda.errors import DraftMismatchError, UsageError
from llcuda.models import get_draft, resolve_model

if TYPE_CHECKING:
    from collections.abc import Iterable
    from os import PathLike

    from llcuda.client import InferResult
    from llcuda.gguf import GGUFInfo
    from llcuda.models import ModelFile

NGRAM_MODES = ("ngram-simple", "ngram-map-k", "ngram-map-k4v", "ngram-mod", "ngram-cache")
"""llama-server's ``--spec-type`` of the drafts that are copied from what was read and written before."""

DRAFT_OPTIONS = ("spec_type", "spec_draft_model", "spec_draft_ngl")
"""llama-server's options that a draft is given."""

_DEFAULT_MODE = "ngram-mod"
"""What llama-server's own ``--spec-default`` switches on."""
_MAX_SIZE_DIFFERENCE = 128
"""SPEC_VOCAB_MAX_SIZE_DIFFERENCE in llama.cpp's common/speculative.cpp: some families pad their vocabularies."""
_REFUSED = "failed to initialize speculative decoding context: "


@dataclass(frozen=True, slots=True)
class Draft:
    """What drafts: a second model, or the text itself if ``model`` is None."""

    asked: str
    spec_type: str
    """llama-server's ``--spec-type``."""
    model: ModelFile | None = None

    def list_options(self, *, gpu_layers: int | None) -> dict[str, Any]:
        """Return llama-server's options for it, beside a model with ``gpu_layers`` on the GPU.

        With a model but no type llama-server would load the draft and never ask it. The draft's devices are the
        model's, but its layers llama-server would place by itself: if the model's are kept off the GPU, so are these.
        """
        placed = {"spec_draft_ngl": 0} if gpu_layers == 0 else {}
        model = {"spec_draft_model": self.model.path} if self.model else {}
        return {"spec_type": self.spec_type, **model, **placed}


@dataclass(frozen=True, slots=True)
class DraftReport:
    """What was asked to draft, whether it does, and what it has brought since the load."""

    asked: str
    """``auto``, an n-gram mode, or the draft model's name."""
    spec_type: str
    """llama-server's name for what drafts, ``draft-simple`` or an n-gram mode; ``none`` if it was left out."""
    model: str | None
    """The draft model; None for n-grams."""
    is_on: bool
    """False if there was not enough memory for the draft beside the model."""
    draft_tokens: int = 0
    draft_tokens_accepted: int = 0

    @property
    def acceptance(self) -> float | None:
        """The share of the drafted tokens that were accepted; None if none was drafted."""
        return self.draft_tokens_accepted / self.draft_tokens if self.draft_tokens else None

    def add(self, result: InferResult) -> DraftReport:
        """Return the report with one more answer in it."""
        return replace(
            self,
            draft_tokens=self.draft_tokens + result.draft_tokens,
            draft_tokens_accepted=self.draft_tokens_accepted + result.draft_tokens_accepted,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, ready for JSON."""
        return {**asdict(self), "acceptance": self.acceptance}

    def __str__(self) -> str:
        """Return it in one line for people."""
        if not self.is_on:
            return f"draft {self.asked}, off: there is not enough memory for it beside the model"
        share = "nothing drafted" if self.acceptance is None else f"acceptance {self.acceptance:.0%}"
        return f"draft {self.asked}, on, {share}"


def choose_draft(
    asked: str | PathLike[str], model: ModelFile, *, spec_type: str | None = None, progress: bool
) -> Draft:
    """Return the draft for ``model``: an n-gram mode, a model by name or path, or with ``auto`` the one that is known.

    If ``auto`` knows none it is ``ngram-mod``. ``spec_type`` is for a draft that is no language model, such as
    ``draft-eagle3``. Raises what resolve_model raises, UsageError for an unknown mode, and DraftMismatchError if the
    headers show that the vocabularies differ.
    """
    name = os.fspath(asked)
    known = (get_draft(model.name) if model.source == "demo" else None) or _DEFAULT_MODE
    chosen = known if name == "auto" else name
    if chosen in NGRAM_MODES:
        return Draft(name, chosen)
    if chosen.startswith("ngram-"):
        raise UsageError(f"draft={chosen!r} is not an n-gram mode", hint=f"There are {', '.join(NGRAM_MODES)}.")
    drafting = resolve_model(chosen if name == "auto" else asked, progress=progress)
    if spec_type is None:
        check_vocabulary(model.info, drafting.info, name=chosen)
    return Draft(name, spec_type or "draft-simple", drafting)


def check_vocabulary(model: GGUFInfo, draft: GGUFInfo, *, name: str) -> None:
    """Raise DraftMismatchError if the headers show that a token of one is not the same token of the other.

    It spares the load of a large model. What headers do not show, the tokens' texts, llama-server compares.
    """
    kinds = [info.metadata.get("tokenizer.ggml.model") for info in (model, draft)]
    if kinds[0] != kinds[1]:
        raise DraftMismatchError(name, f"its tokenizer is of the kind {kinds[1]}, the model's of the kind {kinds[0]}")
    sizes = [info.vocabulary_size or 0 for info in (model, draft)]
    if abs(sizes[0] - sizes[1]) > _MAX_SIZE_DIFFERENCE:
        raise DraftMismatchError(name, f"its vocabulary has {sizes[1]} tokens, the model's {sizes[0]}")


def raise_if_refused(draft: Draft, log: Iterable[str]) -> None:
    """Raise DraftMismatchError if llama-server's log says that it goes on without: it starts all the same."""
    refused = next((line.partition(_REFUSED)[2] for line in log if _REFUSED in line), None)
    if refused:
        raise DraftMismatchError(draft.model.name if draft.model else draft.spec_type, f"llama-server says: {refused}")
