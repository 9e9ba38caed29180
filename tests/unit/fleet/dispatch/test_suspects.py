from __future__ import annotations

import pytest

from llcuda.fleet.dispatch.suspects import Suspects
from llcuda.fleet.refusals import RefusedError

POISON = 7


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_is_proved_is_not_only_suspected_again_by_who_left_before() -> None:
    suspects = Suspects(Clock())
    suspects.suspect(POISON)
    assert suspects.is_suspect(POISON)
    assert suspects.prove(POISON, was_killed=False)
    suspects.suspect_all([POISON])
    with pytest.raises(RefusedError) as refused:
        suspects.is_suspect(POISON)
    assert (refused.value.status, refused.value.code) == (422, "fatal_request")


def test_of_workers_that_somebody_killed_the_second_one_is_proof_whoever_left_meanwhile() -> None:
    suspects = Suspects(Clock())
    assert not suspects.prove(POISON, was_killed=True)
    suspects.suspect(POISON)
    assert suspects.is_suspect(POISON)
    assert suspects.prove(POISON, was_killed=True)


def test_after_ten_minutes_it_may_be_tried_as_any_other() -> None:
    clock = Clock()
    suspects = Suspects(clock)
    suspects.prove(POISON, was_killed=True)
    clock.now = 601.0
    assert not suspects.is_suspect(POISON)
    assert not suspects.prove(POISON, was_killed=True)


def test_an_answer_clears_it() -> None:
    suspects = Suspects(Clock())
    suspects.suspect(POISON)
    suspects.clear(POISON)
    assert not suspects.is_suspect(POISON)
