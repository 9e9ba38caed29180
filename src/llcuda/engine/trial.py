"""Whether a draft pays: measured answers -> is it on, is it to be on, and is that settled. Pure: it has no clock.

A draft changes no answer, only the time that it takes, and whether it shortens that depends on what is asked: code is
drafted better than poetry, and n-grams help only where a text repeats itself. Acceptance alone does not tell: the
demo's draft is right nine times in ten and still slower than the demo itself, which is nearly as small. So nothing is
foretold from the machine, the models or prompts of our own. The user's own answers are timed with the draft, then as
many without it, and the faster stays. Both halves see the same kind of prompt, length of context and number of requests
at a time, which no calibration at load time could know; and loading takes no longer, so a single prompt pays nothing.

The price: llama-server is started again for the second half, and once more if the draft wins. (A request cannot switch
a draft off: ``speculative.n_max`` and its like are compiled out of tools/server/server-schema.cpp.) Each start takes as
long as the load did and forgets the cached prompts. It happens once for a load; the verdict stands until the next.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["Speed", "Trial", "advance", "pays", "switch"]

_ENOUGH_ANSWERS = 8
_ENOUGH_TOKENS = 512
"""At the speeds that people run models with it is half a minute; answers of 12 tokens make it 43."""
_LEAST_GAIN = 1.05
"""Below it a draft is not worth the memory that it takes, and timings of a machine in use differ by as much."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What some answers took to be generated: the prompt's time is not in it, the draft's is."""

    answers: int = 0
    tokens: float = 0.0
    seconds: float = 0.0
    drafted: int = 0
    accepted: int = 0

    def __add__(self, other: Speed) -> Speed:
        return Speed(
            self.answers + other.answers,
            self.tokens + other.tokens,
            self.seconds + other.seconds,
            self.drafted + other.drafted,
            self.accepted + other.accepted,
        )

    @property
    def tokens_per_sec(self) -> float | None:
        """All tokens by all seconds: a long answer weighs more than a short one. None where nothing was measured."""
        return self.tokens / self.seconds if self.seconds else None

    @property
    def acceptance(self) -> float | None:
        """The share of the drafted tokens that were accepted; None where none was drafted."""
        return self.accepted / self.drafted if self.drafted else None

    @property
    def is_enough(self) -> bool:
        """Whether it is enough to judge by."""
        return self.answers >= _ENOUGH_ANSWERS and self.tokens >= _ENOUGH_TOKENS


@dataclass(frozen=True, slots=True)
class Trial:
    """Where the comparison stands.

    It begins with the draft on. When enough is measured the draft is wanted off, and when enough is measured without
    it, the faster is wanted and that is settled. Between a wish and its :func:`switch` nothing is measured.
    """

    is_on: bool = True
    """Whether llama-server drafts now."""
    is_wanted: bool = True
    """Whether it is to draft from its next start on."""
    is_settled: bool = False
    is_warm: bool = False
    """Whether llama-server has answered since its start: its first answer took up to four times as long as the next,
    and is left out."""
    with_draft: Speed = Speed()
    without: Speed = Speed()

    @property
    def is_due(self) -> bool:
        """Whether llama-server is to be started anew."""
        return self.is_on != self.is_wanted

    @property
    def speed_up(self) -> float | None:
        """How many times as fast it is with the draft; None until that is settled by measurement."""
        fast, slow = self.with_draft.tokens_per_sec, self.without.tokens_per_sec
        return fast / slow if self.is_settled and fast and slow else None


def pays(with_draft: Speed, without: Speed) -> bool:
    """Tell whether the draft brings at least 5 % more tokens per second."""
    return (with_draft.tokens_per_sec or 0.0) >= _LEAST_GAIN * (without.tokens_per_sec or 0.0)


def advance(trial: Trial, answer: Speed) -> Trial:
    """Return where the trial stands after one more answer."""
    if trial.is_settled or trial.is_due:
        return trial
    if not trial.is_warm:
        return replace(trial, is_warm=True)
    if trial.is_on:
        return _after_draft(replace(trial, with_draft=trial.with_draft + answer))
    return _after_plain(replace(trial, without=trial.without + answer))


def switch(trial: Trial) -> Trial:
    """Return where the trial stands after llama-server was started as wanted."""
    return replace(trial, is_on=trial.is_wanted, is_warm=False)


def _after_draft(trial: Trial) -> Trial:
    if not trial.with_draft.is_enough:
        return trial
    if not trial.with_draft.drafted:
        # An n-gram mode that found nothing to repeat: it cost nothing, and there is nothing to judge yet.
        return replace(trial, with_draft=Speed())
    return replace(trial, is_wanted=False)


def _after_plain(trial: Trial) -> Trial:
    if not trial.without.is_enough:
        return trial
    return replace(trial, is_wanted=pays(trial.with_draft, trial.without), is_settled=True)
