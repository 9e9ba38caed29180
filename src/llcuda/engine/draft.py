"""Which draft a model gets: what was asked for -> a draft model or an n-gram mode, as llama-server's options."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llcuda.errors import DraftMismatchError, UsageError
from llcuda.models import get_draft, resolve_model

if TYPE_CHECKING:
    from collections.abc import Iterable
    from os import PathLike

    from llcuda.gguf import GGUFInfo
    from llcuda.models import ModelFile

__all__ = ["NGRAM_MODES", "Draft", "check_vocabulary", "choose_draft", "raise_if_refused"]

NGRAM_MODES = ("ngram-simple", "ngram-map-k", "ngram-map-k4v", "ngram-mod", "ngram-cache")
"""llama-server's ``--spec-type`` of the drafts that are copied from what was read and written before."""

_DEFAULT_MODE = "ngram-mod"
"""What llama-server's own ``--spec-default`` switches on."""
_MAX_SIZE_DIFFERENCE = 128
"""SPEC_VOCAB_MAX_SIZE_DIFFERENCE in llama.cpp's common/speculative.cpp: some families pad their vocabularies."""
_REFUSED = "failed to initialize speculative decoding context: "


@dataclass(frozen=True, slots=True)
class Draft:
    """What drafts: a second model, or where ``model`` is None the text itself."""

    asked: str
    spec_type: str
    """llama-server's ``--spec-type``."""
    model: ModelFile | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The options of llama-server for it; with a model but no type it would load the draft and never ask it."""
        model = {"spec_draft_model": self.model.path} if self.model else {}
        return {"spec_type": self.spec_type, **model}


def choose_draft(
    asked: str | PathLike[str], model: ModelFile, *, spec_type: str | None = None, progress: bool
) -> Draft:
    """Return the draft for ``model``: an n-gram mode, a model by name or path, or with ``auto`` the one that is known.

    Where ``auto`` knows none it is ``ngram-mod``, which needs no second model. ``spec_type`` is for a draft that is no
    language model by itself, such as ``draft-eagle3``. Raises what resolve_model raises,
    UsageError for an unknown mode, and DraftMismatchError where the headers show that the vocabularies differ.
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
    """Raise DraftMismatchError where the headers show that a token of one is not the same token of the other.

    It spares the load of a large model. What headers do not show, the tokens' texts, llama-server compares.
    """
    kinds = [info.metadata.get("tokenizer.ggml.model") for info in (model, draft)]
    if kinds[0] != kinds[1]:
        raise DraftMismatchError(name, f"its tokenizer is of the kind {kinds[1]}, the model's of the kind {kinds[0]}")
    sizes = [info.vocabulary_size or 0 for info in (model, draft)]
    if abs(sizes[0] - sizes[1]) > _MAX_SIZE_DIFFERENCE:
        raise DraftMismatchError(name, f"its vocabulary has {sizes[1]} tokens, the model's {sizes[0]}")


def raise_if_refused(draft: Draft, log: Iterable[str]) -> None:
    """Raise DraftMismatchError where llama-server's log says that it goes on without: it starts all the same."""
    refused = next((line.partition(_REFUSED)[2] for line in log if _REFUSED in line), None)
    if refused:
        raise DraftMismatchError(draft.model.name if draft.model else draft.spec_type, f"llama-server says: {refused}")
