"""Speculative decoding of one loaded model: what is measured of it, what is decided, and what is reported."""

from __future__ import annotations

import dataclasses
from threading import Lock
from typing import TYPE_CHECKING, Any

from llcuda.engine.trial import Speed, Trial, advance, switch

if TYPE_CHECKING:
    from llcuda.client import InferResult
    from llcuda.engine.draft import Draft

__all__ = ["DraftReport", "Speculation"]


@dataclasses.dataclass(frozen=True, slots=True)
class DraftReport:
    """What was asked to draft, whether it does, why, and what it brought."""

    asked: str
    """``auto``, an n-gram mode, or the draft model's name."""
    spec_type: str
    """llama-server's name for what drafts, ``draft-simple`` or an n-gram mode; ``none`` while it is off."""
    model: str | None
    """The draft model; None where the drafts are n-grams."""
    is_on: bool
    reason: str
    """In one sentence, why it is so."""
    draft_tokens: int
    draft_tokens_accepted: int
    acceptance: float | None
    """The share of the drafted tokens that were accepted since the load; None where none was drafted."""
    tokens_per_sec: float | None
    """Generated with the draft, over the answers that were compared; None before the first."""
    tokens_per_sec_without: float | None
    """The same without the draft."""
    speed_up: float | None
    """How many times as fast it is with the draft; None until both were measured."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, ready for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        """Return it in one line for people."""
        share = "nothing drafted" if self.acceptance is None else f"acceptance {self.acceptance:.0%}"
        return f"draft {self.asked}, {'on' if self.is_on else 'off'}, {share}. {self.reason}"


class Speculation:
    """A draft and its trial. Threads may share it."""

    def __init__(self, draft: Draft, *, keep: bool) -> None:
        """Begin with the draft on; ``keep`` leaves it on whatever it brings."""
        self.draft = draft
        self._keep = keep
        self._lock = Lock()
        self._trial = Trial(is_settled=keep)
        self._total = Speed()

    @property
    def is_due(self) -> bool:
        """Whether llama-server is to be started anew, with or without the draft."""
        return self._trial.is_due

    @property
    def options(self) -> dict[str, Any]:
        """llama-server's options for its next start."""
        return self.draft.options if self._trial.is_wanted else dict.fromkeys(self.draft.options)

    def record(self, result: InferResult) -> bool:
        """Take what an answer measured, and return whether it has decided anything."""
        seconds = result.generation_ms / 1e3
        # The server's own speed leaves out the first token, which the prompt brought.
        tokens = result.tokens_per_sec * seconds
        answer = Speed(1, tokens, seconds, result.draft_tokens, result.draft_tokens_accepted)
        with self._lock:
            before = self._trial
            self._total += answer
            if result.tokens_generated > 1:
                self._trial = advance(before, answer)
            return (before.is_wanted, before.is_settled) != (self._trial.is_wanted, self._trial.is_settled)

    @property
    def may_be_left_out(self) -> bool:
        """Whether a draft model is to be loaded, and memory would be won without it."""
        return self._trial.is_wanted and not self._keep and self.draft.model is not None

    def leave_out(self) -> None:
        """Give the draft up, for want of memory."""
        with self._lock:
            self._trial = Trial(is_on=False, is_wanted=False, is_settled=True)

    def switch(self) -> None:
        """Note that llama-server was started as was wanted."""
        with self._lock:
            self._trial = switch(self._trial)

    def report(self) -> DraftReport:
        """Return how it stands."""
        with self._lock:
            trial, total = self._trial, self._total
        draft = self.draft
        return DraftReport(
            asked=draft.asked,
            spec_type=draft.spec_type if trial.is_on else "none",
            model=draft.model.name if draft.model else None,
            is_on=trial.is_on,
            reason="It is kept on, as was asked for." if self._keep else explain(trial),
            draft_tokens=total.drafted,
            draft_tokens_accepted=total.accepted,
            acceptance=total.acceptance,
            tokens_per_sec=trial.with_draft.tokens_per_sec,
            tokens_per_sec_without=trial.without.tokens_per_sec,
            speed_up=trial.speed_up,
        )


def explain(trial: Trial) -> str:
    """Return in one sentence why the draft is on or off."""
    fast, plain = trial.with_draft.tokens_per_sec or 0.0, trial.without.tokens_per_sec or 0.0
    if trial.is_settled and not trial.with_draft.answers:
        return "There is not enough memory for it beside the model."
    if trial.is_settled:
        verdict = "pays" if trial.is_wanted else "does not pay"
        when = ", and is switched on when no request is in flight" if trial.is_due else ""
        return f"It {verdict}: {fast:,.1f} tokens/s with it and {plain:,.1f} without, on the prompts so far{when}."
    if trial.is_due:
        return f"It made {fast:,.1f} tokens/s, and is switched off for comparison when no request is in flight."
    if trial.is_on:
        return "It is being measured on what is asked."
    return f"It made {fast:,.1f} tokens/s, and the model is being measured without it."
