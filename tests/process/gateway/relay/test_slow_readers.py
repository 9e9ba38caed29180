"""Many clients do not read: the short version of ``python -m benchmarks.gateway_slow_readers``."""

from __future__ import annotations

from tests.scenarios.gateway_slow_readers import run_slow_readers

_COUNT = 60
_WRITE_TIMEOUT = 2.0


def test_those_that_do_not_read_are_cut_and_hold_up_nobody() -> None:
    figures = run_slow_readers(_COUNT, write_timeout=_WRITE_TIMEOUT)
    assert len(figures.cut_seconds) == figures.counted == _COUNT
    assert min(figures.cut_seconds) > _WRITE_TIMEOUT
    assert figures.rss_highest - figures.rss_before < 0.5 * _COUNT
    assert figures.lost == []
    assert figures.during_ms
