"""Nothing that one client sends changes another's answer: the short version of ``python -m benchmarks.isolation``."""

from __future__ import annotations

import pytest

from tests.scenarios.isolation import run_isolation


@pytest.mark.timeout(600)
def test_questions_of_known_answers_are_answered_right_whatever_others_send() -> None:
    figures = run_isolation(300)
    assert figures.wrong == []
    assert not figures.failed
    assert figures.in_use == {}
    assert figures.questions == 300
    assert figures.fuzzed["200"] > 10
    assert figures.fuzzed["left"] > 0
