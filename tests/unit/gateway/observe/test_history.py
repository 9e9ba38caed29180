"""The figures of the page: read from the metrics, kept for two minutes, and what is made of them."""

from __future__ import annotations

import math
import os
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from llcuda.fleet.processes.process_usage import read_resident
from llcuda.gateway.observe.gateway_metrics import GatewayMetrics
from llcuda.gateway.observe.history import Figures, History, TokenCount, find_quantile, read_figures

if TYPE_CHECKING:
    from pathlib import Path


def figures(tokens: int = 0, pieces: int = 0, first_tokens: dict[float, int] | None = None) -> Figures:
    return Figures(totals=Counter(completion_tokens=tokens), pieces=pieces, first_tokens=first_tokens or {})


def test_what_is_read_is_what_was_counted() -> None:
    metrics = GatewayMetrics()
    metrics.count("chat", model="demo", status=200, seconds=0.1)
    metrics.count("chat", model="demo", status=200, seconds=0.1)
    metrics.count("completion", model="other", status=503, seconds=0.1)
    metrics.count("status", model="", status=200, seconds=0.1)
    metrics.rejected.add("queue_full")
    metrics.prompt_tokens.add(number=7)
    metrics.completion_tokens.add(number=5)
    metrics.retries.add()
    metrics.first_token_seconds.observe(0.02)
    for _ in range(3):
        metrics.intervals.observe(0.01)
    read = read_figures(metrics)
    assert read.requests == {"200": 2, "503": 1}
    assert read.rejected == {"queue_full": 1}
    assert read.totals == {"prompt_tokens": 7, "completion_tokens": 5, "retries": 1, "cancelled": 0}
    assert read.pieces == 3
    assert (read.first_tokens[0.01], read.first_tokens[0.025], read.first_tokens[math.inf]) == (0, 1, 1)


def test_a_gateway_that_was_not_asked_has_counted_nothing() -> None:
    read = read_figures(GatewayMetrics())
    assert (read.requests, read.rejected, read.pieces, set(read.first_tokens.values())) == ({}, {}, 0, {0})


@pytest.mark.parametrize(
    ("share", "before", "after", "expected"),
    [
        (0.5, {}, {1.0: 0, 2.0: 10, math.inf: 10}, 1.5),
        (0.95, {}, {1.0: 0, 2.0: 10, math.inf: 10}, 1.95),
        (0.5, {1.0: 90, 2.0: 90, math.inf: 90}, {1.0: 90, 2.0: 92, math.inf: 92}, 1.5),
        (0.5, {}, {1.0: 4, 2.0: 4, math.inf: 4}, 0.5),
        (0.95, {}, {1.0: 0, 2.0: 0, math.inf: 3}, 2.0),
        (0.5, {}, {1.0: 0, math.inf: 0}, None),
        (0.5, {1.0: 3, math.inf: 3}, {1.0: 3, math.inf: 3}, None),
        (0.5, {}, {}, None),
    ],
)
def test_a_quantile_lies_between_the_bounds_of_the_requests_in_the_window(
    *, share: float, before: dict[float, int], after: dict[float, int], expected: float | None
) -> None:
    assert find_quantile(share, before, after) == (None if expected is None else pytest.approx(expected))


class TestTokenCount:
    def test_pieces_count_while_they_come_and_not_again_at_the_end(self) -> None:
        count = TokenCount()
        assert [count.advance(pieces=pieces, tokens=0, is_idle=False) for pieces in (20, 40, 60)] == [20, 20, 20]
        assert count.advance(pieces=60, tokens=61, is_idle=True) == 1
        assert count.total == 61

    def test_answers_that_do_not_stream_count_at_their_end(self) -> None:
        count = TokenCount()
        assert count.advance(pieces=0, tokens=100, is_idle=True) == 100
        assert count.advance(pieces=0, tokens=150, is_idle=True) == 50

    def test_an_answer_beside_a_stream_is_counted_in_the_end(self) -> None:
        count = TokenCount()
        assert count.advance(pieces=30, tokens=0, is_idle=False) == 30
        count.advance(pieces=50, tokens=40, is_idle=False)
        count.advance(pieces=60, tokens=101, is_idle=True)
        assert count.total == 101

    def test_a_stream_that_broke_off_takes_nothing_from_what_follows(self) -> None:
        count = TokenCount()
        count.advance(pieces=500, tokens=0, is_idle=False)
        count.advance(pieces=500, tokens=0, is_idle=True)
        assert count.advance(pieces=500, tokens=80, is_idle=True) == 80


class TestHistory:
    def test_it_begins_with_nothing(self) -> None:
        plain = History().to_plain()
        assert (plain["tokens_per_second"], plain["first_token_p50_ms"], plain["tokens"]) == (0.0, None, 0)
        assert plain["seconds"]["busy"] == []

    def test_a_rate_is_what_came_by_the_time_that_passed(self) -> None:
        history = History()
        for now, pieces in ((100.0, 0), (101.0, 50), (103.0, 90)):
            history.note(figures(pieces=pieces), now=now, busy=1, waiting=2)
        plain = history.to_plain()
        assert plain["seconds"]["tokens_per_second"] == [0.0, 50.0, 20.0]
        assert plain["tokens_per_second"] == pytest.approx(23.3)
        assert (plain["seconds"]["busy"], plain["seconds"]["waiting"]) == ([1, 1, 1], [2, 2, 2])

    def test_two_minutes_are_kept(self) -> None:
        history = History()
        for now in range(500):
            history.note(figures(), now=float(now), busy=now, waiting=0)
        busy = history.to_plain()["seconds"]["busy"]
        assert (len(busy), busy[0], busy[-1]) == (120, 380, 499)

    def test_the_time_to_the_first_token_is_that_of_the_last_requests(self) -> None:
        history = History()
        for now in range(100):
            many = 10 if now >= 30 else 0
            history.note(figures(first_tokens={0.1: 0, 0.2: many, math.inf: many}), now=now, busy=0, waiting=0)
            if now == 35:
                assert history.to_plain()["first_token_p50_ms"] == pytest.approx(150.0)
                assert history.to_plain()["first_token_p95_ms"] == pytest.approx(195.0)
        plain = history.to_plain()
        points = plain["seconds"]["first_token_ms"]
        assert [now for now, point in enumerate(points) if point is not None] == list(range(30, 40))
        assert plain["first_token_p50_ms"] is None


def test_the_memory_of_a_process_is_what_the_kernel_says(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "statm").write_text("100 25 5 1 0 9 0\n")
    assert read_resident(7, root=tmp_path) == 25 * os.sysconf("SC_PAGE_SIZE")
    assert read_resident(8, root=tmp_path) is None
    assert read_resident(None) is None
    assert (read_resident(os.getpid()) or 0) > 1 << 20
